-- Returns the keys of logs of one bucket, in order.
--
-- KEYS: marker, index of logs. ARGV: marker, where to begin (as ZRANGEBYLEX has it), how many.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
return redis.call('ZRANGEBYLEX', KEYS[2], ARGV[2], '+', 'LIMIT', 0, ARGV[3])

-- Notes that the markers of all buckets were raised to an incarnation, so that no client looks at them again.
--
-- KEYS: registry. ARGV: identity of the incarnation, incarnation.
if redis.call('HGET', KEYS[1], 'birth') ~= ARGV[1] then
  return 0
end
return redis.call('HSET', KEYS[1], 'raised', ARGV[2])

-- Begins another generation of the records of a bucket: those of the old one are out of sight at once, whatever time it
-- takes to delete them.
--
-- KEYS: marker, garbage. ARGV: marker, new marker.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
-- DEL is never refused for lack of memory, and what follows a first write is not either.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SADD', KEYS[2], 'r' .. ARGV[1]:sub(17, 24))
if #ARGV[1] > 24 then
  redis.call('SADD', KEYS[2], 'r' .. ARGV[1]:sub(25))
end
return 1

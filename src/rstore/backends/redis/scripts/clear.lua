-- Begins another generation of the records of a bucket: those of the old one are out of sight at once, whatever time it
-- takes to delete them. Returns how much there is to delete.
--
-- Also where there are none: it is sent again when its reply is lost, and must not clear what was written meanwhile.
--
-- KEYS: marker, garbage, index. ARGV: marker, new marker.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local held = redis.call('EXISTS', KEYS[3]) == 1
-- PERSIST is never refused for lack of memory, and what follows a first write is not either. Not DEL: while the slot
-- moves to another server, a key that is gone is looked for there, and the rest of the script refused.
redis.call('PERSIST', KEYS[1])
redis.call('SET', KEYS[1], ARGV[2])
if held then
  redis.call('SADD', KEYS[2], 'r' .. ARGV[1]:sub(25, 32))
end
if #ARGV[1] > 32 then
  redis.call('SADD', KEYS[2], 'r' .. ARGV[1]:sub(33))
end
return redis.call('SCARD', KEYS[2])

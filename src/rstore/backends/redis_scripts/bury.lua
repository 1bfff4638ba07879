-- Makes the marker of a bucket the tombstone of a birth, and remembers what has to be cleaned up.
--
-- A tombstone, not nothing: whoever was about to raise the marker to this birth must find that it is late. It expires
-- long after anybody could still be about to.
--
-- KEYS: marker, garbage. ARGV: birth, milliseconds that the tombstone stays.
local marker = redis.call('GET', KEYS[1])
if marker and marker:sub(1, 16) ~= ARGV[1]
    and struct.unpack('>I8', marker) > struct.unpack('>I8', ARGV[1]) then
  return 0
end
-- DEL is never refused for lack of memory, and what follows a first write is not either.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if marker and #marker > 16 then
  redis.call('SADD', KEYS[2], 'n' .. marker:sub(1, 16), 'r' .. marker:sub(17, 24))
  if #marker > 24 then
    redis.call('SADD', KEYS[2], 'r' .. marker:sub(25))
  end
end
return 1

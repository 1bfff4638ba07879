-- Makes the marker of a bucket the tombstone of an incarnation, and notes its garbage; returns how many entries of
-- garbage there are.
--
-- A tombstone, not nothing: a client that was about to raise the marker to this incarnation must find that it is late.
-- It expires long after any client could still be about to.
--
-- KEYS: marker, garbage. ARGV: identity of the incarnation, milliseconds that the tombstone stays.
local marker = redis.call('GET', KEYS[1])
if marker and marker:sub(1, 16) ~= ARGV[1]
    and struct.unpack('>I8', marker) > struct.unpack('>I8', ARGV[1]) then
  return redis.call('SCARD', KEYS[2])  -- the creator of that one has noted it
end
local left = {}
if marker and #marker > 16 then
  -- The indexes cannot be declared as KEYS; they have the hash tag of the bucket. They are looked at before anything is
  -- changed: while the slot moves, that may be refused.
  local bucket, logs = KEYS[2]:sub(1, 7), KEYS[2]:sub(1, 7) .. 'l' .. marker:sub(1, 16)
  for from = 25, #marker, 8 do
    if redis.call('EXISTS', bucket .. 'i' .. marker:sub(from, from + 7)) == 1 then
      left[#left + 1] = 'r' .. marker:sub(from, from + 7)
    end
  end
  if redis.call('EXISTS', logs .. '1', logs .. '2', logs .. '3', logs .. '4') > 0 then
    left[#left + 1] = 'n' .. marker:sub(1, 16)
  end
end
-- PERSIST is never refused for lack of memory, and what follows a first write is not either. Not DEL: while the slot
-- moves to another server, a key that is gone is looked for there, and the rest of the script refused.
redis.call('PERSIST', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if #left > 0 then
  redis.call('SADD', KEYS[2], unpack(left))
end
return redis.call('SCARD', KEYS[2])

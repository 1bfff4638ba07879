-- Makes the entry of a namespace a tombstone; returns the birth that ends, or ended before.
--
-- KEYS: registry.
local birth = redis.call('HGET', KEYS[1], 'birth')
if not birth then
  return false
end
-- HDEL is never refused for lack of memory, and what follows a first write is not either. Not DEL: while the slot moves
-- to another server, a key that is gone is looked for there, and the rest of the script refused.
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if field ~= 'birth' then
    redis.call('HDEL', KEYS[1], field)
  end
end
redis.call('HSET', KEYS[1], 'alive', '0')
return birth

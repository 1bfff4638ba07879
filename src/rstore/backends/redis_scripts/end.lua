-- Makes the entry of a namespace a tombstone; returns the birth that ends, or ended before.
--
-- KEYS: registry.
local birth = redis.call('HGET', KEYS[1], 'birth')
if not birth then
  return false
end
-- DEL is never refused for lack of memory, and what follows a first write is not either.
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'birth', birth, 'alive', '0')
return birth

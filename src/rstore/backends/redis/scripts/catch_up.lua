-- Takes up the last part of an incarnation as the markers have it, where the registry lost it in a failover. Returns 1
-- if it did.
--
-- KEYS: registry. ARGV: identity of the incarnation, its last eight bytes.
if redis.call('HGET', KEYS[1], 'birth') ~= ARGV[1] then
  return 0
end
local keys = redis.call('HGET', KEYS[1], 'keys')
if keys and struct.unpack('>I8', keys) >= struct.unpack('>I8', ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], 'keys', ARGV[2])
return 1

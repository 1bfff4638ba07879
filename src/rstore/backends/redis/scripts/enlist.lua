-- Enters a namespace with its incarnation into the index of namespaces, unless it is there with the same one or a later
-- one.
--
-- KEYS: index of namespaces. ARGV: name, incarnation.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and (known == ARGV[2] or struct.unpack('>I8', known) > struct.unpack('>I8', ARGV[2])) then
  return 0
end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])

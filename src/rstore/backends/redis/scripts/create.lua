-- Creates a namespace unless there is one; returns its incarnation in two parts, its identity and the rest, which facts
-- replace.
--
-- An identity is the time in microseconds, 8 bytes big-endian, and 8 bytes that the caller drew: a later one is greater,
-- whatever the clock does, because what was discarded stays here for a while as a tombstone.
--
-- KEYS: registry. ARGV: the drawn bytes; an incarnation to take up again if none as late is known here ('' for none).
local none = string.rep('\0', 8)
local identity, alive, keys = unpack(redis.call('HMGET', KEYS[1], 'birth', 'alive', 'keys'))
if identity and alive == '1' then
  return {identity, keys or none}
end
local new, rest = ARGV[2]:sub(1, 16), ARGV[2]:sub(17)
if new == '' or (identity and struct.unpack('>I8', new) <= struct.unpack('>I8', identity)) then
  local time = redis.call('TIME')
  local us = time[1] * 1000000 + time[2]
  if identity then
    us = math.max(us, struct.unpack('>I8', identity) + 1)
  end
  new, rest = struct.pack('>I8', us) .. ARGV[1], none
end
redis.call('HSET', KEYS[1], 'birth', new, 'alive', '1', 'keys', rest)
redis.call('PERSIST', KEYS[1])
return {new, rest}

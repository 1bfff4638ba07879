-- Creates a namespace unless there is one; returns its birth.
--
-- A birth is the time in microseconds, 8 bytes big-endian, and 8 bytes that the caller drew: a later one is greater,
-- whatever the clock does, because what was discarded stays here for a while as a tombstone.
--
-- KEYS: registry. ARGV: the drawn bytes; a birth to take up again if none as late is known here ('' for none).
local birth, alive = unpack(redis.call('HMGET', KEYS[1], 'birth', 'alive'))
if birth and alive == '1' then
  return birth
end
local new = ARGV[2]
if new == '' or (birth and struct.unpack('>I8', new) <= struct.unpack('>I8', birth)) then
  local time = redis.call('TIME')
  local us = time[1] * 1000000 + time[2]
  if birth then
    us = math.max(us, struct.unpack('>I8', birth) + 1)
  end
  new = struct.pack('>I8', us) .. ARGV[1]
end
redis.call('HSET', KEYS[1], 'birth', new, 'alive', '1')
redis.call('PERSIST', KEYS[1])
return new

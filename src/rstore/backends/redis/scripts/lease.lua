-- Takes the lease on a log; returns 1, or 0 if another client has it.
--
-- Not SET with NX: it is refused for lack of memory, and a client that deletes several logs at once needs a lease.
--
-- KEYS: lease. ARGV: token, milliseconds that it lasts.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('PERSIST', KEYS[1])  -- never refused for lack of memory, and neither is what follows a first write
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1

-- Lets a lease last some more, unless it has run out or was given back: a renewal that comes late takes nothing.
--
-- KEYS: lease. ARGV: token, milliseconds that it lasts.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])

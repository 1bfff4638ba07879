-- Takes a namespace out of the index of namespaces, unless it was entered with a later incarnation.
--
-- KEYS: index of namespaces. ARGV: name, incarnation.
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0

-- Keeps a fact about a namespace unless there is one of that name; returns the one that is kept.
--
-- KEYS: registry. ARGV: field, fact.
if redis.call('HGET', KEYS[1], 'alive') ~= '1' then
  return {err = 'STALE'}
end
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
return redis.call('HGET', KEYS[1], ARGV[1])

-- Deletes a log; returns 1, or 0 where there is none or its version is another. Its chunks become garbage at once.
--
-- KEYS: marker, index of logs, head, rows, chunks, checkpoints, lease, garbage, the new name of the index of chunks.
-- ARGV: marker, key, token of the lease, condition on the version ('' for any, '!' for none, '=' and the version).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local holder = redis.call('GET', KEYS[7])
if holder and holder ~= ARGV[3] then
  return {err = 'LEASED'}
end
-- A head that is damaged has none, and goes unless one is expected.
local version = redis.call('HGET', KEYS[3], 'v') or (redis.call('EXISTS', KEYS[3]) == 1 and '')
if not version or (ARGV[4] ~= '' and ARGV[4] ~= '=' .. version) then
  return 0
end
redis.call('UNLINK', KEYS[3], KEYS[4], KEYS[6])
redis.call('ZREM', KEYS[2], ARGV[2])
if redis.call('EXISTS', KEYS[5]) == 1 then
  redis.call('RENAME', KEYS[5], KEYS[9])
  redis.call('SADD', KEYS[8], KEYS[9]:sub(8))
end
return 1

-- Applies the changes of a transaction, if the records that it has read are unchanged; returns DONE, or why it did not.
--
-- Records and heads of logs have stamps; whatever else it has read is watched by its connection. Its commands come one
-- after another; that only the first of a script can be refused for lack of memory makes them all or nothing.
--
-- KEYS: marker, expiry; the records that were read, and the heads; leases that no other client may have; bodies of chunks
-- that must still be there; then one key for each command. ARGV: marker; the first millisecond from which on nothing of the bucket
-- may have expired ('' for none); how many records, heads, leases and bodies; for each record its version ('' if there is
-- none) and the last millisecond that it is there ('' for ever); for each head its epoch ('' if there is none), version
-- and facts; for each lease the token of the client that may have it; then for each command its name, how many
-- arguments follow its key, and these.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 'STALE'
end
if ARGV[2] ~= '' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if redis.call('ZCOUNT', KEYS[2], ARGV[2], '(' .. now) > 0 then
    return 'EXPIRED'
  end
end
local k, a = 2, 6
for _ = 1, tonumber(ARGV[3]) do
  k, a = k + 1, a + 2
  local head = redis.call('GETRANGE', KEYS[k], 0, 61)
  local version = head:byte(1) == 0xC1 and head:sub(51, 62) or head:sub(2, 9)
  local last = head ~= '' and redis.call('ZSCORE', KEYS[2], KEYS[k]:sub(17)) or ''
  if version ~= ARGV[a - 1] or last ~= ARGV[a] then
    return 'CHANGED'
  end
end
for _ = 1, tonumber(ARGV[4]) do
  k, a = k + 1, a + 3
  local epoch, version, facts = unpack(redis.call('HMGET', KEYS[k], 'e', 'v', 'f'))
  if (epoch or '') ~= ARGV[a - 2] or (version or '') ~= ARGV[a - 1] or (facts or '') ~= ARGV[a] then
    return 'CHANGED'
  end
end
for _ = 1, tonumber(ARGV[5]) do
  k, a = k + 1, a + 1
  local holder = redis.call('GET', KEYS[k])
  if holder and holder ~= ARGV[a] then
    return 'LEASED'
  end
end
for _ = 1, tonumber(ARGV[6]) do
  k = k + 1
  if redis.call('EXISTS', KEYS[k]) == 0 then
    return 'UNSTAGED'
  end
end
while a < #ARGV do
  local n = tonumber(ARGV[a + 2])
  k = k + 1
  -- A log without chunks has no index of them that could be renamed.
  if ARGV[a + 1] ~= 'RENAME' or redis.call('EXISTS', KEYS[k]) == 1 then
    redis.call(ARGV[a + 1], KEYS[k], unpack(ARGV, a + 3, a + 2 + n))
  end
  a = a + 2 + n
end
return 'DONE'

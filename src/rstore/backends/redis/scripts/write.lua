-- Puts and deletes records of one bucket: all, or nothing where the marker is another.
--
-- The first command that changes anything may also be refused for lack of memory; the ones after it are not.
--
-- KEYS: marker, index, expiry, then the records: puts that stay, puts that expire, deletions.
-- ARGV: marker (an incarnation alone where the records go into a batch that is not visible), how many puts stay, how many
-- expire, then for each put its record, and how many milliseconds it lives if it expires (in a batch: until when, so that
-- its pieces do not count from different moments).
local marker = redis.call('GET', KEYS[1]) or ''
local staging = #ARGV[1] == 24
if marker ~= ARGV[1] and not (staging and marker:sub(1, 24) == ARGV[1]) then
  return {err = 'STALE'}
end
local index, expiry = KEYS[2], KEYS[3]
if #KEYS == 4 and ARGV[2] == '1' and redis.call('EXISTS', expiry) == 0 then
  -- The most frequent case, without the cost of the loops below.
  redis.call('SET', KEYS[4], ARGV[4])
  redis.call('ZADD', index, '0', KEYS[4]:sub(17))
  return 1
end
-- How many expire. It is kept in mind: a key that is gone is looked for elsewhere while the slot moves, and the rest of
-- the script refused.
local expiring = redis.call('ZCARD', expiry)
local stay, expire = tonumber(ARGV[2]), tonumber(ARGV[3])
local last = 3 + stay

for from = 4, last, 400 do
  local to = math.min(from + 399, last)
  local set, add, keys = {}, {}, {}
  for i = from, to do
    local j = 2 * (i - from)
    set[j + 1], set[j + 2] = KEYS[i], ARGV[i]
    keys[i - from + 1] = KEYS[i]:sub(17)
    add[j + 1], add[j + 2] = '0', keys[i - from + 1]
  end
  redis.call('MSET', unpack(set))
  redis.call('ZADD', index, unpack(add))
  if expiring > 0 then
    expiring = expiring - redis.call('ZREM', expiry, unpack(keys))
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, expire do
  local name = KEYS[last + i]
  local key, at = name:sub(17), last + 2 * i - 1
  -- The last millisecond that it is there: Redis expires what is later than its expiry.
  local until_ms = string.format('%.0f', (staging and 0 or now) + ARGV[at + 1] - 1)
  redis.call('SET', name, ARGV[at], 'PXAT', until_ms)
  redis.call('ZADD', index, '0', key)
  expiring = expiring + redis.call('ZADD', expiry, until_ms, key)
end
for i = last + expire + 1, #KEYS do
  local key = KEYS[i]:sub(17)
  redis.call('UNLINK', KEYS[i])
  redis.call('ZREM', index, key)
  if expiring > 0 then
    expiring = expiring - redis.call('ZREM', expiry, key)
  end
end
if expiring > 0 and not staging then
  -- Those that expired are out of sight already. Here, because a record that was put again has another expiry now. Not in
  -- a batch: that its index names them is what takes the place of those that they replace.
  local gone = redis.call('ZRANGEBYSCORE', expiry, '-inf', '(' .. now, 'LIMIT', 0, 20)
  if #gone > 0 then
    redis.call('ZREM', index, unpack(gone))
    redis.call('ZREM', expiry, unpack(gone))
  end
end
return 1

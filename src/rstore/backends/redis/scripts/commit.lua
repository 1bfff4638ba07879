-- One atomic step of a log: all of it, or nothing where a condition does not hold. Returns 1 or 0.
--
-- Every condition is looked at before the first change. The bodies of new chunks are there already, under names that only
-- this commit knows and that expire unless it keeps them; those of old chunks stay for readers that have read the index
-- and come for the bodies next.
--
-- KEYS: marker, index of logs, head, rows, chunks, checkpoints, lease; where ids are put the index of logs of ids and the
-- head and the rows of that log; bodies of new chunks, bodies of old chunks.
-- ARGV: marker, key, token of the lease; conditions on epoch and version ('' for any, '!' for none, '=' and the stamp);
-- whether to create, and the head to begin with (epoch, version, sealed, facts); the new epoch, version and facts ('' to
-- leave the old, or '=' and the new); whether to drop an empty log; where to drop checkpoints from ('' for none);
-- milliseconds that old bodies stay; how many rows and chunks to drop, rows, chunks and checkpoints to put, ids to drop and
-- ids to put, and then these.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local logs, head, rows, chunks, checkpoints = KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local key, token, if_epoch, if_version = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local create, epoch, version, sealed, facts = ARGV[6] == '1', ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local new_epoch, new_version, new_facts = ARGV[11], ARGV[12], ARGV[13]
local drop_if_empty, checkpoints_from, grace_ms = ARGV[14] == '1', ARGV[15], ARGV[16]
local n_drop_rows, n_drop_chunks, n_rows, n_chunks, n_checkpoints =
  tonumber(ARGV[17]), tonumber(ARGV[18]), tonumber(ARGV[19]), tonumber(ARGV[20]), tonumber(ARGV[21])
local n_drop_ids, n_ids = tonumber(ARGV[22]), tonumber(ARGV[23])
local at_drop_rows = 24
local at_drop_chunks = at_drop_rows + n_drop_rows
local at_rows = at_drop_chunks + n_drop_chunks
local at_chunks = at_rows + n_rows
local at_checkpoints = at_chunks + n_chunks
local at_drop_ids = at_checkpoints + n_checkpoints
local at_ids = at_drop_ids + n_drop_ids
local ids_logs, ids_head, ids = KEYS[8], KEYS[9], KEYS[10]
local bodies = n_ids > 0 and 11 or 8

local function holds(condition, stamp)
  return condition == '' or condition == (stamp and '=' .. stamp or '!')
end
local function remove(set, from, n)
  for i = from, from + n - 1, 500 do
    redis.call('ZREM', set, unpack(ARGV, i, math.min(i + 499, from + n - 1)))
  end
end
local function put(set, from, n)
  for i = from, from + n - 1, 400 do
    local to = math.min(i + 399, from + n - 1)
    local add = {}
    for j = i, to do
      add[2 * (j - i) + 1], add[2 * (j - i) + 2] = '0', ARGV[j]
    end
    redis.call('ZADD', set, unpack(add))
  end
end
local function replace(set, from, n)
  for i = from, from + n - 1 do
    local row = ARGV[i]
    local after = row:sub(1, 8) .. struct.pack('>I4', struct.unpack('>I4', row, 9) + 1)
    redis.call('ZREMRANGEBYLEX', set, '[' .. row:sub(1, 12), '(' .. after)
  end
  put(set, from, n)
end

local holder = redis.call('GET', KEYS[7])
if holder and holder ~= token then
  return {err = 'LEASED'}
end
local old_epoch, old_version = unpack(redis.call('HMGET', head, 'e', 'v'))
if not (old_epoch and old_version) and redis.call('EXISTS', head) == 1 then
  return {err = 'DAMAGED'}
end
if not (old_epoch or create) or not (holds(if_epoch, old_epoch) and holds(if_version, old_version)) then
  return 0
end
local dropped = {}
for i = at_drop_ids, at_ids - 1 do
  dropped[ARGV[i]] = true
end
for i = at_ids, at_ids + n_ids - 1 do
  local position = ARGV[i]:sub(1, 12)
  local after = position:sub(1, 8) .. struct.pack('>I4', struct.unpack('>I4', position, 9) + 1)
  for _, id in ipairs(redis.call('ZRANGEBYLEX', ids, '[' .. position, '(' .. after)) do
    if not dropped[id] then
      return 0
    end
  end
end
for i = bodies, bodies + n_chunks - 1 do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    return {err = 'UNSTAGED'}
  end
end
for i = at_drop_chunks, at_rows - 1 do
  if not redis.call('ZSCORE', chunks, ARGV[i]) then
    return {err = 'CHANGED'}
  end
end

local function set_head()
  local fields = {}
  if not old_epoch then
    fields = {'e', epoch, 'v', version, 's', sealed, 'f', facts}
    redis.call('ZADD', logs, '0', key)
  end
  for field, new in pairs({e = new_epoch, v = new_version, f = new_facts}) do
    if new ~= '' then
      fields[#fields + 1], fields[#fields + 2] = field, new:sub(2)
    end
  end
  if #fields > 0 then
    redis.call('HSET', head, unpack(fields))
  end
end

-- Only a first change can be refused for lack of memory: a commit that puts begins with what may be refused, one that
-- only drops with what may not.
local puts = n_rows + n_chunks + n_checkpoints + n_ids > 0
if puts then
  set_head()
end
remove(rows, at_drop_rows, n_drop_rows)
remove(chunks, at_drop_chunks, n_drop_chunks)
for i = bodies + n_chunks, #KEYS do
  redis.call('PEXPIRE', KEYS[i], grace_ms)
end
if checkpoints_from ~= '' then
  redis.call('ZREMRANGEBYLEX', checkpoints, '[' .. checkpoints_from, '+')
end
if not puts then
  set_head()
end
replace(rows, at_rows, n_rows)
put(chunks, at_chunks, n_chunks)
for i = bodies, bodies + n_chunks - 1 do
  redis.call('PERSIST', KEYS[i])
end
replace(checkpoints, at_checkpoints, n_checkpoints)
if n_ids > 0 then
  if redis.call('EXISTS', ids_head) == 0 then
    local stamp = ('\0'):rep(16)
    redis.call('HSET', ids_head, 'e', stamp, 'v', stamp, 's', '0', 'f', '')
    redis.call('ZADD', ids_logs, '0', key)
  end
  remove(ids, at_drop_ids, n_drop_ids)
  put(ids, at_ids, n_ids)
end
if drop_if_empty and redis.call('EXISTS', rows, chunks) == 0 then
  redis.call('UNLINK', head, checkpoints)
  redis.call('ZREM', logs, key)
end
return 1

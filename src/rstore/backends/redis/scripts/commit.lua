-- One or more atomic steps of logs: all of them, or nothing where a condition does not hold. Returns 1 or 0.
--
-- Every condition of every step is looked at before the first change. The bodies of new chunks are there already, under
-- names that only this commit knows and that expire unless it keeps them; those of old chunks stay for readers that
-- have read the index and come for the bodies next.
--
-- ARGV: number of steps; then for each its kind ('c' commit, 'd' drop), the number of its keys and of its arguments,
-- and its arguments. KEYS: those of each step, in order. Conditions are '' for any, '!' for none, '=' and the stamp.
local STALE, LEASED, UNSTAGED, CHANGED, REFUSED =
  {err = 'STALE'}, {err = 'LEASED'}, {err = 'UNSTAGED'}, {err = 'CHANGED'}, 0

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

-- Looks at the conditions of a commit; returns what it does, or nothing and what the script is to return.
--
-- Keys: marker, index of logs, head, rows, chunks, checkpoints, lease, bodies of new chunks, bodies of old chunks.
-- Arguments: marker, key, token of the lease; conditions on epoch and version; whether to create, and the head to begin
-- with (epoch, version, sealed, facts); the new epoch, version and facts ('' to leave the old, or '=' and the new);
-- whether to drop an empty log; where to drop checkpoints from ('' for none); milliseconds that old bodies stay; how
-- many rows and chunks to drop, and rows, chunks and checkpoints to put, and then these.
local function committing(k, n_keys, a)
  local logs, head, rows, chunks, checkpoints = KEYS[k + 2], KEYS[k + 3], KEYS[k + 4], KEYS[k + 5], KEYS[k + 6]
  local key, token, if_epoch, if_version = ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]
  local create, epoch, version, sealed, facts =
    ARGV[a + 6] == '1', ARGV[a + 7], ARGV[a + 8], ARGV[a + 9], ARGV[a + 10]
  local new_epoch, new_version, new_facts = ARGV[a + 11], ARGV[a + 12], ARGV[a + 13]
  local drop_if_empty, checkpoints_from, grace_ms = ARGV[a + 14] == '1', ARGV[a + 15], ARGV[a + 16]
  local n_drop_rows, n_drop_chunks, n_rows, n_chunks, n_checkpoints = tonumber(ARGV[a + 17]), tonumber(ARGV[a + 18]),
    tonumber(ARGV[a + 19]), tonumber(ARGV[a + 20]), tonumber(ARGV[a + 21])
  local at_drop_rows = a + 22
  local at_drop_chunks = at_drop_rows + n_drop_rows
  local at_rows = at_drop_chunks + n_drop_chunks
  local at_chunks = at_rows + n_rows
  local at_checkpoints = at_chunks + n_chunks

  local old_epoch, old_version = unpack(redis.call('HMGET', head, 'e', 'v'))
  if not (old_epoch or create) or not (holds(if_epoch, old_epoch) and holds(if_version, old_version)) then
    return nil, REFUSED
  end
  for i = k + 8, k + 7 + n_chunks do
    if redis.call('EXISTS', KEYS[i]) == 0 then
      return nil, UNSTAGED
    end
  end
  for i = at_drop_chunks, at_rows - 1 do
    if not redis.call('ZSCORE', chunks, ARGV[i]) then
      return nil, CHANGED
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

  return function()
    -- Only a first change can be refused for lack of memory: a commit that puts begins with what may be refused, one
    -- that only drops with what may not.
    local puts = n_rows + n_chunks + n_checkpoints > 0
    if puts then
      set_head()
    end
    remove(rows, at_drop_rows, n_drop_rows)
    remove(chunks, at_drop_chunks, n_drop_chunks)
    for i = k + 8 + n_chunks, k + n_keys do
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
    for i = k + 8, k + 7 + n_chunks do
      redis.call('PERSIST', KEYS[i])
    end
    replace(checkpoints, at_checkpoints, n_checkpoints)
    if drop_if_empty and redis.call('EXISTS', rows, chunks) == 0 then
      redis.call('UNLINK', head, checkpoints)
      redis.call('ZREM', logs, key)
    end
  end
end

-- The same for the deletion of a log. Its chunks become garbage at once.
--
-- Keys: marker, index of logs, head, rows, chunks, checkpoints, lease, garbage, the new name of the index of chunks.
-- Arguments: marker, key, token of the lease, condition on the version.
local function dropping(k, _, a)
  local version = redis.call('HGET', KEYS[k + 3], 'v')
  if not version or not holds(ARGV[a + 4], version) then
    return nil, REFUSED
  end
  return function()
    redis.call('UNLINK', KEYS[k + 3], KEYS[k + 4], KEYS[k + 6])
    redis.call('ZREM', KEYS[k + 2], ARGV[a + 2])
    if redis.call('EXISTS', KEYS[k + 5]) == 1 then
      redis.call('RENAME', KEYS[k + 5], KEYS[k + 9])
      redis.call('SADD', KEYS[k + 8], KEYS[k + 9]:sub(8))
    end
  end
end

local changes = {}
local k, a = 0, 2
for i = 1, tonumber(ARGV[1]) do
  local kind, n_keys, n_arguments = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  a = a + 2
  if redis.call('GET', KEYS[k + 1]) ~= ARGV[a + 1] then
    return STALE
  end
  local holder = redis.call('GET', KEYS[k + 7])
  if holder and holder ~= ARGV[a + 3] then
    return LEASED
  end
  local change, refusal = (kind == 'd' and dropping or committing)(k, n_keys, a)
  if not change then
    return refusal
  end
  changes[i] = change
  k, a = k + n_keys, a + n_arguments + 1
end
for _, change in ipairs(changes) do
  change()
end
return 1

-- Deletes a bounded part of the garbage of a bucket; returns how many entries are left.
--
-- An entry is 'r' and a generation of records, 'd' and what was the index of the chunks of a dropped log, or 'n' and
-- the incarnation of a namespace, whose logs become 'd' one after another. The names of what is deleted are in the indexes,
-- so that they cannot be declared as KEYS; all have the hash tag of the bucket, and no client uses them any more.
--
-- A batch that was staged and not made visible in time becomes garbage here.
--
-- KEYS: garbage, staged batches. ARGV: how many names to delete at most, a batch that is given up ('' for none).
local garbage, most = KEYS[1], tonumber(ARGV[1])
local bucket = garbage:sub(1, 7)
if ARGV[2] ~= '' then
  redis.call('ZREM', KEYS[2], ARGV[2])  -- first: it is never refused for lack of memory
  redis.call('SADD', garbage, 'r' .. ARGV[2])
end
local time = redis.call('TIME')
for _, batch in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', time[1], 'LIMIT', 0, 10)) do
  redis.call('ZREM', KEYS[2], batch)
  redis.call('SADD', garbage, 'r' .. batch)
end
local entry = redis.call('SRANDMEMBER', garbage)
if not entry then
  return 0
end
local kind, what = entry:sub(1, 1), entry:sub(2)

local function unlink(names)
  for i = 1, #names, 500 do
    redis.call('UNLINK', unpack(names, i, math.min(i + 499, #names)))
  end
end

if kind == 'r' then
  local index = bucket .. 'i' .. what
  local keys = redis.call('ZRANGE', index, 0, most - 1)
  for i = 1, #keys do
    keys[i] = bucket .. 'v' .. what .. keys[i]
  end
  unlink(keys)
  redis.call('ZREMRANGEBYRANK', index, 0, most - 1)
  if #keys < most then
    redis.call('UNLINK', index, bucket .. 'x' .. what)
    redis.call('SREM', garbage, entry)
  end
elseif kind == 'd' then
  local chunks = bucket .. 'd' .. what
  local entries = redis.call('ZRANGE', chunks, 0, most - 1)
  for i = 1, #entries do
    entries[i] = bucket .. 'b' .. what:sub(1, 16) .. entries[i]:sub(29, 40)
  end
  unlink(entries)
  redis.call('ZREMRANGEBYRANK', chunks, 0, most - 1)
  if #entries < most then
    redis.call('SREM', garbage, entry)
  end
else
  local left = math.ceil(most / 5)
  for model = 1, 4 do
    local logs = bucket .. 'l' .. what .. model
    local keys = left > 0 and redis.call('ZRANGE', logs, 0, left - 1) or {}
    for _, key in ipairs(keys) do
      local log = what .. model .. key
      if redis.call('EXISTS', bucket .. 'c' .. log) == 1 then
        redis.call('RENAME', bucket .. 'c' .. log, bucket .. 'd' .. log)
        redis.call('SADD', garbage, 'd' .. log)
      end
      redis.call('UNLINK', bucket .. 'h' .. log, bucket .. 'r' .. log, bucket .. 'k' .. log, bucket .. 't' .. log)
      redis.call('ZREM', logs, key)
      left = left - 1
    end
  end
  if left > 0 then
    redis.call('SREM', garbage, entry)
  end
end
return redis.call('SCARD', garbage)

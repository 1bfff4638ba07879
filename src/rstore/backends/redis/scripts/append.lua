-- Puts rows into a log, replacing those at the same positions; creates the log if there is none.
--
-- A row is one member of a sorted set of score 0: 12 bytes of position, which sort as positions do, and the body.
-- Returns 0 if the log is sealed and the rows are not, or the other way round.
--
-- KEYS: marker, index of logs, head, rows. ARGV: marker, key, the head (epoch, version, sealed, facts), the first and
-- the last position of the rows, then the rows, of which no two are at one position.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local head, rows = KEYS[3], KEYS[4]
local sealed = redis.call('HGET', head, 's')
if not sealed then
  if redis.call('EXISTS', head) == 1 then
    return {err = 'DAMAGED'}
  end
  redis.call('HSET', head, 'e', ARGV[3], 'v', ARGV[4], 's', ARGV[5], 'f', ARGV[6])
  redis.call('ZADD', KEYS[2], '0', ARGV[2])
elseif sealed ~= ARGV[5] then
  return 0
end
local function after(position)
  return position:sub(1, 8) .. struct.pack('>I4', struct.unpack('>I4', position, 9) + 1)
end
-- What is replaced is looked for before the new rows are there, and goes after: only a first change can be refused for
-- lack of memory. Mostly there is nothing.
local replaced = {}
if redis.call('ZLEXCOUNT', rows, '[' .. ARGV[7], '(' .. after(ARGV[8])) > 0 then
  for i = 9, #ARGV do
    local position = ARGV[i]:sub(1, 12)
    local row = redis.call('ZRANGEBYLEX', rows, '[' .. position, '(' .. after(position))[1]
    if row and row ~= ARGV[i] then
      replaced[#replaced + 1] = row
    end
  end
end
for from = 9, #ARGV, 400 do
  local to = math.min(from + 399, #ARGV)
  local add = {}
  for i = from, to do
    add[2 * (i - from) + 1], add[2 * (i - from) + 2] = '0', ARGV[i]
  end
  redis.call('ZADD', rows, unpack(add))
end
for from = 1, #replaced, 500 do
  redis.call('ZREM', rows, unpack(replaced, from, math.min(from + 499, #replaced)))
end
return 1

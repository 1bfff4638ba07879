-- Enters a batch into the index of those that are staged, unless it is visible: what was on the way when a connection broke
-- may arrive after that, and the batch would become garbage. Returns 1 if it is entered.
--
-- KEYS: marker, staged batches. ARGV: the batch, the second at which it is given up.
local marker = redis.call('GET', KEYS[1])
if marker and marker:sub(33) == ARGV[1] then
  return 0
end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return 1

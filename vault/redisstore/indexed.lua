-- Reads the members of an index with their records, so that a subject's connections cost one round trip.
--
-- KEYS[1]: a sorted set, all scores 0. ARGV: echo, lower end (as ZRANGEBYLEX has it), limit (-1: none), prefix of the
-- records' keys, prefix of further keys or ''. The keys made from the prefixes have the hash tag of KEYS[1].
local members = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[2], '+', 'LIMIT', '0', ARGV[3])
local out = {}
for i, member in ipairs(members) do
  local extra = {}
  if ARGV[5] ~= '' then extra = redis.call('HGETALL', ARGV[5] .. member) end
  out[i] = {member, redis.call('HGETALL', ARGV[4] .. member), extra}
end
return {ARGV[1], out}

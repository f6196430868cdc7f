-- Reads the members of an index with their records, so that a subject's connections cost one round trip.
--
-- KEYS[1]: a sorted set, all scores 0. ARGV: echo, lower end, limit, prefix of the records' keys, prefix of further keys, a hash to
-- be read first, as members.lua has them.
return {ARGV[1], members_of(KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])}

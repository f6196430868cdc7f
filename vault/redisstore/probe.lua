-- Names the commands that the user may not run, or that the server does not have.
--
-- KEYS[1]: a key of the broker's. ARGV, for each command: number of words, words.
-- Answer: two lists of names. A server that can't tell (before Redis 7.0) has none in either.
local denied, unknown = {}, {}
if redis.acl_check_cmd then
  local at = 1
  while at <= #ARGV do
    local n = tonumber(ARGV[at])
    local known, may = pcall(redis.acl_check_cmd, unpack(ARGV, at + 1, at + n))
    if not known then
      unknown[#unknown + 1] = ARGV[at + 1]
    elseif not may then
      denied[#denied + 1] = ARGV[at + 1]
    end
    at = at + 1 + n
  end
end
return {denied, unknown}

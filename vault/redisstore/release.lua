-- Lets a token out (vault.ReleaseStep): its place in the audit chain, what must still be so, then the use and the entry, or nothing.
-- Every request for a token runs it: it asks for as little as it can, and is told as little, for each argument costs as much as a short
-- command. The names of the fields are put in where it says so below (scripts.go). It is a block of one script with apply.lua, with
-- members.lua and refused.lua behind it.
--
-- KEYS: heads, stream, index, record, switches, what is used.
-- ARGV:  2 echo   3 writer   4 head   5 next head   6 meta   7 body   8 begin of the digest of the index's members and of the record's version
--        9 mark of the switches   10 field of the use   11 its value   12 what is seldom needed (rest below)
--       from 13 on the values of the fields to be checked
-- Answer: echo, verdict, stream id at the head, and with 'done' the fields that are read, with 'again' these and those that are
-- checked, with 'chain' the head, with 'refused' what was read instead and the number of the check: 0 is the digest, then come those of
-- the record, then the switches.
local call, KEYS, ARGV = redis.call, KEYS, ARGV
local heads, writer = KEYS[1], ARGV[3]
local head = call('HGET', heads, writer) or ''
local reads, checks = $READS, $CHECKS

-- rest reads what is seldom needed: texts behind their lengths. The set of streams, the member of it; of the index to be read instead its
-- key, lower end, limit, prefix of records, prefix of further keys, hash beside.
local function rest()
  local texts, at = {}, 1
  while at <= #ARGV[12] do
    local stop = string.find(ARGV[12], ':', at, true)
    local from = stop + 1
    at = from + tonumber(string.sub(ARGV[12], at, stop - 1))
    texts[#texts + 1] = string.sub(ARGV[12], from, at - 1)
  end
  return texts
end

-- The chain decides first: whether this very step was done before shows here even if the record has moved on since.
if head == ARGV[5] or head ~= ARGV[4] then
  local id = call('HGET', heads, writer .. '.id') or ''
  if head ~= ARGV[5] then return {ARGV[2], 'chain', id, head} end
  return {ARGV[2], 'again', id, call('HMGET', KEYS[4], $FIELDS)}
end

local refused
local found = call('HMGET', KEYS[4], $FIELDS, $VERSION)
local state = call('ZRANGEBYLEX', KEYS[3], '-', '+')
state[#state + 1] = found[reads + checks + 1] or ''
state[#state + 1] = '' -- a line feed behind the last one too
local digits = #ARGV[8]
if digits < 12 or string.sub(redis.sha1hex(table.concat(state, '\n')), 1, digits) ~= ARGV[8] then refused = 0 end
for i = 1, refused and 0 or checks do
  if found[reads + i] ~= ARGV[12 + i] then
    refused = i
    break
  end
end
found[reads + 1] = nil -- an answer's list ends at the first nil
if not refused and (call('HGET', KEYS[5], $SWITCHES) or '') ~= ARGV[9] then refused = checks + 1 end

if not refused then
  -- A script that fails is not undone, so a writer asks once, with its first entry, whether it may do all this (Redis 7.0 and later
  -- can tell). Should the user's rights change later, the order of the writes sees to it that there is no entry without its head:
  -- without the right to HSET the use fails, first of all; without that to XADD nothing is there but a use.
  if head == '' then
    local more, may = rest(), redis.acl_check_cmd
    if may then
      for name, allowed in pairs({
        sadd = may('SADD', more[1], more[2]), xadd = may('XADD', KEYS[2], '*', 'm', '', 'b', ''),
        hset = may('HSET', heads, writer, '') and may('HSET', KEYS[6], ARGV[10], ''),
      }) do
        if not allowed then error({err = "NOPERM this user has no permissions to run the '" .. name .. "' command"}, 0) end
      end
    end
    call('SADD', more[1], more[2])
  end
  call('HSET', KEYS[6], ARGV[10], ARGV[11])
  local id = call('XADD', KEYS[2], '*', 'm', ARGV[6], 'b', ARGV[7])
  call('HSET', heads, writer, ARGV[5], writer .. '.id', id)
  return {ARGV[2], 'done', id, found}
end


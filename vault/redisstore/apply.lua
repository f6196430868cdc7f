-- Carries out one step (vault.Step): its place in the audit chain, its checks, then all its writes, or nothing.
--
-- KEYS: every key of the step; ARGV names them by number. ARGV, counts before lists:
--   what the step is (release.lua: 'release'), echo
--   reads:   n, then for each: key, number of fields, fields
--   settle:  n (0 or 1); if n > 0: key, pause in ms
--   entries: n; if n > 0: stream, heads, index, member, writer, head, next, then for each: meta, body
--   checks:  n, then for each: key, field, kind, value
--   writes:  n, then for each: kind, key, number of arguments, arguments
-- Answer: echo, verdict, number of the refused check, time in ms, head, stream id at the head, ids of the entries, reads.
local at = 1
local function take()
  at = at + 1
  return ARGV[at]
end
local function number() return tonumber(take()) end

local echo = take()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local now_text = string.format('%.0f', now)

local reads = {}
for i = 1, number() do
  local read = {key = KEYS[number()], fields = {}}
  for j = 1, number() do read.fields[j] = take() end
  reads[i] = read
end

local head, head_id = '', ''
local ids = {}
local function answer(verdict, refused)
  local values = {}
  for i, read in ipairs(reads) do
    if #read.fields == 0 then
      values[i] = redis.call('HGETALL', read.key)
    else
      local pairs_of = {}
      for j, field in ipairs(read.fields) do
        local value = redis.call('HGET', read.key, field)
        if value then
          pairs_of[#pairs_of + 1] = field
          pairs_of[#pairs_of + 1] = value
        end
      end
      values[i] = pairs_of
    end
  end
  return {echo, verdict, tostring(refused), now_text, head, head_id, ids, values}
end

-- The replication id changes when a server starts and when a replica becomes a master. INFO may be forbidden.
if number() > 0 then
  local key, pause = KEYS[number()], number()
  local info = redis.pcall('INFO', 'replication')
  local run = type(info) == 'string' and string.match(info, 'master_replid:(%w+)')
  if run then
    local have = redis.call('HGET', key, 'run')
    local till = tonumber(redis.call('HGET', key, 'until') or 0)
    if not have then
      redis.call('HSET', key, 'run', run)
    elseif pause > 0 then
      if have ~= run or till > now + pause then
        till = now + pause
        redis.call('HSET', key, 'run', run, 'until', string.format('%.0f', till))
      end
      if now < till then return answer('settles', 0) end
    end
  end
end

local entries, stream, heads, index, member, writer, next_head = number()
local first_entry
if entries > 0 then
  stream, heads, index = KEYS[number()], KEYS[number()], KEYS[number()]
  member, writer = take(), take()
  local want = take()
  next_head = take()
  first_entry = at + 1
  at = at + 2 * entries
  head = redis.call('HGET', heads, writer) or ''
  head_id = redis.call('HGET', heads, writer .. '.id') or ''
  -- The chain decides first: whether this very step was done before shows here even if the record has moved on since.
  if head == next_head then return answer('again', 0) end
  if head ~= want then return answer('chain', 0) end
end

for i = 1, number() do
  local key, field, kind, value = KEYS[number()], take(), take(), take()
  local have = kind ~= 'fewer' and redis.call('HGET', key, field)
  local holds = false
  if kind == 'eq' then
    holds = have == value
  elseif kind == 'ne' then
    holds = have ~= value
  elseif kind == 'absent' then
    holds = not have
  elseif kind == 'free' then
    holds = not have or tonumber(have) < now
  elseif kind == 'most' then
    holds = have and tonumber(have) and tonumber(have) <= tonumber(value)
  elseif kind == 'fewer' then
    holds = redis.call('ZCOUNT', key, '(' .. now_text, '+inf') < tonumber(value)
  elseif kind == 'done' then
    if have == value then return answer('applied', 0) end
    holds = true
  end
  if not holds then return answer('refused', i - 1) end
end

-- What the user may not do must show before anything is written: a script that fails is not undone (Redis 7.0 and later can
-- tell; /readyz asks as well). Whether there is memory, a disk and replicas enough, Redis asks at the first write alone.
local asked = {}
local function may(kind, key, ...)
  local name = kind .. ' ' .. key
  if asked[name] or not redis.acl_check_cmd then return end
  asked[name] = true
  if not redis.acl_check_cmd(kind, key, ...) then
    error({err = "NOPERM this user has no permissions to run the '" .. string.lower(kind) .. "' command"}, 0)
  end
end

local writes = {}
for i = 1, number() do
  local write = {kind = take(), key = KEYS[number()], args = {}}
  for j = 1, number() do write.args[j] = take() end
  if write.kind == 'deadline' then
    may('HSET', write.key, write.args[1], '0')
  elseif write.kind == 'unless' then
    may('HGET', write.args[4], write.args[5])
    may('ZADD', write.key, '0', 'm')
  elseif write.kind == 'place' then
    may('ZREMRANGEBYSCORE', write.key, '-inf', '0')
    may('ZADD', write.key, '0', 'm')
  elseif write.kind == 'only' then
    may('HKEYS', write.key)
    may('HDEL', write.key, 'f')
  else
    may(write.kind, write.key, unpack(write.args))
  end
  writes[i] = write
end
if entries > 0 then
  may('SADD', index, member)
  may('XADD', stream, '*', 'm', '', 'b', '')
  may('HSET', heads, writer, '')
end

-- The index first, which may be written twice, then what the head is about, then the head: whatever stops the script
-- between leaves a chain to which the same step can still be added.
if entries > 0 then redis.call('SADD', index, member) end
for i = 1, entries do
  ids[i] = redis.call('XADD', stream, '*', 'm', ARGV[first_entry + 2 * (i - 1)], 'b', ARGV[first_entry + 2 * (i - 1) + 1])
end
if entries > 0 then
  head, head_id = next_head, ids[entries]
  redis.call('HSET', heads, writer, head, writer .. '.id', head_id)
end

for _, write in ipairs(writes) do
  local kind, key, args = write.kind, write.key, write.args
  if kind == 'deadline' then
    redis.call('HSET', key, args[1], string.format('%.0f', now + tonumber(args[2])))
  elseif kind == 'unless' then
    if redis.call('HGET', args[4], args[5]) ~= args[1] then redis.call('ZADD', key, args[2], args[3]) end
  elseif kind == 'place' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now_text)
    redis.call('ZADD', key, string.format('%.0f', now + tonumber(args[1])), args[2])
  elseif kind == 'only' then
    local keep = {}
    for j = 2, #args do keep[args[j]] = true end
    for _, field in ipairs(redis.call('HKEYS', key)) do
      if string.sub(field, 1, #args[1]) == args[1] and not keep[field] then
        redis.call('HDEL', key, field)
      end
    end
  else
    redis.call(kind, key, unpack(args))
  end
end

return answer('done', 0)

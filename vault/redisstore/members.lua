-- The members of an index (from, as ZRANGEBYLEX has it; limit, -1: none) with the hashes behind two prefixes ('': no second one),
-- and before them all a hash beside ('': none). All these keys have the index's hash tag. What asks for it stands behind this.
local function members_of(index, from, limit, records, extras, beside)
  local out = {}
  if beside ~= '' then out[1] = {'', redis.call('HGETALL', beside), {}} end
  for _, member in ipairs(redis.call('ZRANGEBYLEX', index, from, '+', 'LIMIT', '0', limit)) do
    local extra = {}
    if extras ~= '' then extra = redis.call('HGETALL', extras .. member) end
    out[#out + 1] = {member, redis.call('HGETALL', records .. member), extra}
  end
  return out
end


local more = rest()
return {
  ARGV[2], 'refused', call('HGET', heads, writer .. '.id') or '', members_of(more[3], more[4], more[5], more[6], more[7], more[8]), tostring(refused),
}

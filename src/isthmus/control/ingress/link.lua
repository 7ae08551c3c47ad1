-- The link's entrance: reads the PROXY v2 header that a private link service puts before each connection.
--
-- HAProxy 2.6 takes such headers apart by itself ("accept-proxy") and drops the one TLV that matters here, Azure's link
-- id (type 0xEE, subtype 0x01, uint32 little endian). So the header is taken off here, and the connection goes on to the
-- inner listener with a header of HAProxy's own, whose unique id (a TLV that 2.6 does hand on) carries the link id.
--
-- Sets txn.link and txn.customer for a link's connection, txn.probe ("plain" or "tls") for a health probe of the load
-- balancer (whose header names no client, or which has none), or txn.refused with the reason.
-- Sources: haproxy.org, proxy-protocol.txt, 2.2; Microsoft, "Azure Private Link service", TCP Proxy v2.

local SIGNATURE = "\r\n\r\n\0\r\nQUIT\n"
local FIXED = 16
local LONGEST = 2048
local ADDRESS_BYTES = {[0x11] = 12, [0x12] = 12, [0x21] = 36, [0x22] = 36}
local AZURE = 0xEE
local LINK_ID = 0x01

local function link_id(block, from)
  local at = from
  while at + 3 <= #block + 1 do
    local kind, length = string.unpack(">BI2", block, at)
    at = at + 3
    if at + length > #block + 1 then
      return nil, "a field of the PROXY header is cut short"
    end
    if kind == AZURE and length == 5 and string.byte(block, at) == LINK_ID then
      return string.unpack("<I4", block, at + 1)
    end
    at = at + length
  end
  return nil, "the PROXY header has no link id"
end

local function customer(block, family)
  if family == 0x11 then
    return table.concat({string.byte(block, FIXED + 1, FIXED + 4)}, ".")
  end
  return ""
end

local function probe(txn)
  local first = txn.req:data(0, 1)
  txn:set_var("txn.probe", first == "\x16" and "tls" or "plain")
end

local function judge(txn)
  local request = txn.req
  local start = request:data(0, 4)
  if start == nil or #start == 0 then
    return nil -- a probe that connects and says nothing
  end
  if start == "GET " then
    txn:set_var("txn.probe", "plain")
    return nil
  end
  local head = request:data(0, FIXED)
  if head == nil or #head < FIXED or string.sub(head, 1, #SIGNATURE) ~= SIGNATURE then
    return "no PROXY v2 header"
  end
  local command, family, length = string.unpack(">BBI2", head, #SIGNATURE + 1)
  if command ~= 0x20 and command ~= 0x21 then
    return "the PROXY header has another version or an unknown command"
  end
  if length > LONGEST then
    return "the PROXY header is too long"
  end
  local block = request:data(0, FIXED + length)
  if block == nil or #block < FIXED + length then
    return "the PROXY header is cut short"
  end
  if command == 0x20 or family == 0x00 then
    request:remove(0, FIXED + length)
    probe(txn)
    return nil
  end
  local addresses = ADDRESS_BYTES[family]
  if addresses == nil or length < addresses then
    return "the PROXY header has no address"
  end
  local found, why = link_id(block, FIXED + addresses + 1)
  if found == nil then
    return why
  end
  request:remove(0, FIXED + length)
  txn:set_var("txn.link", tostring(found))
  txn:set_var("txn.customer", customer(block, family))
  return nil
end

core.register_action("take_link", {"tcp-req"}, function(txn)
  local why = judge(txn)
  if why ~= nil then
    txn:set_var("txn.refused", why)
  end
end)

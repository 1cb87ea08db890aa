-- A browser's request: 13 fields with the cohort cookie, over 1,000 different clients.
-- `wrk … -- HOST` asks that host, and as a page that is followed, not loaded again: no max-age=0.
-- At the end one line of JSON for bench.py, after a marker of its own.
local clients = 1000
local requests = {}
local at = 0
local digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

init = function(args)
  local fields = {
    ["Host"] = "bench.example",
    ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    ["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    ["Accept-Language"] = "en-GB,en;q=0.7,de;q=0.3",
    ["Accept-Encoding"] = "gzip, deflate, br, zstd",
    ["Referer"] = "http://bench.example/news/",
    ["Upgrade-Insecure-Requests"] = "1",
    ["Sec-Fetch-Dest"] = "document",
    ["Sec-Fetch-Mode"] = "navigate",
    ["Sec-Fetch-Site"] = "same-origin",
    ["Sec-Fetch-User"] = "?1",
    ["Cache-Control"] = "max-age=0",
  }
  if args[2] == "close" then
    fields["Connection"] = "close"
  end
  if args[1] and args[1] ~= "" then
    fields["Host"] = args[1]
    fields["Cache-Control"] = nil
  end
  math.randomseed(7)
  for i = 1, clients do
    -- 16 random octets in unpadded URL-safe base64, as the gateway makes them.
    local key = {}
    for place = 1, 21 do
      local digit = math.random(1, 64)
      key[place] = digits:sub(digit, digit)
    end
    local last = math.random(1, 4)
    key[22] = ("AQgw"):sub(last, last)
    fields["Cookie"] = "theme=dark; gw_cohort=" .. table.concat(key)
    requests[i] = wrk.format("GET", "/api/news/latest?page=" .. i, fields)
  end
end

request = function()
  at = at % clients + 1
  return requests[at]
end

done = function(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '@@{"requests":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"errors":%d,"refused":%d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.timeout, e.status))
end

-- A POST with a body of 1 MiB, or of as many bytes as the argument says.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/octet-stream"

function init(args)
  wrk.body = string.rep("x", tonumber(args[1] or "1048576"))
  request_text = wrk.format()
end

function request()
  return request_text
end

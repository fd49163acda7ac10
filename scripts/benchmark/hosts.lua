-- Each request to the next one of so many hosts, r0.test and so on: the number is the argument.
local names, next_one = {}, 0

function init(args)
  for number = 0, tonumber(args[1]) - 1 do
    names[number] = wrk.format("GET", nil, { Host = "r" .. number .. ".test" })
  end
end

function request()
  next_one = (next_one + 1) % (#names + 1)
  return names[next_one]
end

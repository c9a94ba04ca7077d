package streamprox

import "testing"

func TestInspectJSONErrors(t *testing.T) {
	inspect := func(fields string) string { return `{"handler":"inspect",` + fields + `}` }
	checkJSON(t, []jsonCase{
		{"nothing", `{"handler":"inspect"}`, ""},
		{"all of the design's fields", inspect(`"until":"headers","max_bytes":16384,"max_packets":0,"timeout":"10s","silent_timeout":"15s","max_pending":0,"max_pending_per_ip":0,"lenient":false,"routes":[{"match":[],"handle":[]}]`), ""},
		{"unknown field", inspect(`"max_byte":1`), "max_byte"},
		{"unknown field of a route", inspect(`"routes":[{"terminal":true}]`), "terminal"},
		{"until unknown", inspect(`"until":"body"`), `until: unknown value "body": use headers or line`},
		{"max_bytes 0", inspect(`"max_bytes":0`), "max_bytes: 0 is not between 1 and 16777216 bytes"},
		{"max_bytes negative", inspect(`"max_bytes":-1`), "max_bytes: -1 is not between"},
		{"max_bytes too large", inspect(`"max_bytes":16777217`), "max_bytes: 16777217 is not between"},
		{"max_bytes largest", inspect(`"max_bytes":16777216`), ""},
		{"max_bytes smallest", inspect(`"max_bytes":1`), ""},
		{"max_bytes with unit", inspect(`"max_bytes":"16KiB"`), "max_bytes"},
		{"max_packets 0", inspect(`"max_packets":0`), ""},
		{"max_packets negative", inspect(`"max_packets":-1`), "max_packets: -1 is less than 0"},
		{"timeout 0", inspect(`"timeout":0`), "timeout: 0s is not more than 0"},
		{"timeout 0s", inspect(`"timeout":"0s"`), "timeout: 0s is not more than 0"},
		{"timeout negative", inspect(`"timeout":"-1s"`), "timeout: -1s is not more than 0"},
		{"silent_timeout 0", inspect(`"silent_timeout":0`), "silent_timeout: 0s is not more than 0"},
		{"silent_timeout negative", inspect(`"silent_timeout":"-1s"`), "silent_timeout: -1s is not more than 0"},
		{"max_pending 0", inspect(`"max_pending":0`), ""},
		{"max_pending negative", inspect(`"max_pending":-2`), "max_pending: -2 is less than 0"},
		{"max_pending_per_ip 0", inspect(`"max_pending_per_ip":0`), ""},
		{"max_pending_per_ip negative", inspect(`"max_pending_per_ip":-2`), "max_pending_per_ip: -2 is less than 0"},
		{"replay 0", inspect(`"replay":0`), ""},
		{"replay largest", inspect(`"replay":1000`), ""},
		{"replay too large", inspect(`"replay":1001`), "replay: 1001 is not between 0 and 1000"},
		{"replay negative", inspect(`"replay":-1`), "replay: -1 is not between 0 and 1000"},
		{"the failing route is named", inspect(`"routes":[{},{"handle":[{"handler":"http_app","wait":0}]}]`), "route 1: "},
		{"unknown matcher", inspect(`"routes":[{"match":[{"nonsense":{}}]}]`), "layer4.matchers.nonsense"},
		{"unknown handler", inspect(`"routes":[{"handle":[{"handler":"nonsense"}]}]`), "layer4.handlers.nonsense"},
	})
}

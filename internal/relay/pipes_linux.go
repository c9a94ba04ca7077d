package relay

type pipe struct{ held int }
type pipes struct{}

func (pipes) giveBack(*lane) {}
func (pipes) close()         {}

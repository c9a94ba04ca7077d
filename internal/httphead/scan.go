package httphead

// scan returns the index of the first byte of data, from i on, that is not in
// the class.
func scan(data []byte, i int, bit uint8) int {
	for i < len(data) && class[data[i]]&bit != 0 {
		i++
	}
	return i
}

package main

import (
	"image"
	"image/color"
	"math"
)

// newPicture returns a picture for drawPlasma, of 320 by 180 pixels.
func newPicture() *image.Paletted {
	palette := make(color.Palette, 64)
	for i := range palette {
		phase := 2 * math.Pi * float64(i) / float64(len(palette))
		wave := func(shift float64) uint8 { return uint8(128 + 100*math.Sin(phase+shift)) }
		palette[i] = color.RGBA{R: wave(0), G: wave(1.6), B: wave(3.4), A: 255}
	}
	return image.NewPaletted(image.Rect(0, 0, 320, 180), palette)
}

// drawPlasma draws the sum of four moving waves as they are after t seconds.
func drawPlasma(picture *image.Paletted, t float64) {
	bounds := picture.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		v := float64(y) / 28
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			u := float64(x) / 28
			cx, cy := u-5.7+3*math.Sin(t/2), v-3.2+2*math.Cos(t/3)
			sum := math.Sin(u+t) + math.Sin(v/2-t) + math.Sin((u+v+t)/2) + math.Sin(math.Hypot(cx, cy)+t)
			picture.SetColorIndex(x, y, uint8(32+7.75*sum)) // -4 <= sum <= 4
		}
	}
}

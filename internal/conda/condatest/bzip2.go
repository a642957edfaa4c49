package condatest

import (
	"hash/crc32"
	"math/bits"
	"slices"
)

// The standard library reads bzip2 and does not write it. This encoder is small and correct, not fast and not tight: its Huffman
// codes are as good as fixed. It is for small packages.

// bzip2Block is how many bytes a block holds after the first run-length coding: the least of the format's levels, less its margin.
const bzip2Block = 100_000 - 20

const (
	bzip2Magic = 0x314159265359
	bzip2End   = 0x177245385090
)

// bzip2Stream compresses data as one stream.
func bzip2Stream(data []byte) []byte {
	w := &bitWriter{}
	for _, c := range "BZh1" {
		w.bits(uint64(c), 8)
	}
	combined := uint32(0)
	for len(data) > 0 {
		n, packed := runLength(data)
		crc := bzip2CRC(data[:n])
		combined = bits.RotateLeft32(combined, 1) ^ crc
		writeBlock(w, packed, crc)
		data = data[n:]
	}
	w.bits(bzip2End, 48)
	w.bits(uint64(combined), 32)
	return w.bytes()
}

// runLength codes runs of 4 to 259 equal bytes as four of them and a count, until a block is full. It returns how many bytes it took.
func runLength(data []byte) (taken int, packed []byte) {
	for taken < len(data) && len(packed) < bzip2Block-5 {
		c, n := data[taken], 1
		for n < 255+4 && taken+n < len(data) && data[taken+n] == c {
			n++
		}
		for range min(n, 4) {
			packed = append(packed, c)
		}
		if n >= 4 {
			packed = append(packed, byte(n-4))
		}
		taken += n
	}
	return taken, packed
}

func writeBlock(w *bitWriter, data []byte, crc uint32) {
	last, origin := burrowsWheeler(data)
	symbols, used, alphabet := moveToFront(last)

	w.bits(bzip2Magic, 48)
	w.bits(uint64(crc), 32)
	w.bits(0, 1) // not randomised
	w.bits(uint64(origin), 24)
	for i := range 16 {
		w.bits(b2u(slices.Contains(used[i*16:(i+1)*16], true)), 1)
	}
	for i := range 16 {
		if row := used[i*16 : (i+1)*16]; slices.Contains(row, true) {
			for _, u := range row {
				w.bits(b2u(u), 1)
			}
		}
	}

	// Two equal tables, the least there may be; all groups of 50 symbols use the first.
	groups := (len(symbols) + 49) / 50
	w.bits(2, 3)
	w.bits(uint64(groups), 15)
	for range groups {
		w.bits(0, 1)
	}
	// A complete code: the first short symbols have one bit less than the others.
	long := bits.Len(uint(alphabet - 1))
	short := 1<<long - alphabet
	for range 2 {
		length := long
		if short > 0 {
			length--
		}
		w.bits(uint64(length), 5)
		for s := range alphabet {
			if s == short && short > 0 {
				w.bits(0b10, 2) // one longer
			}
			w.bits(0, 1)
		}
	}
	for _, s := range symbols {
		if s < short {
			w.bits(uint64(s), long-1)
		} else {
			w.bits(uint64(s+short), long)
		}
	}
}

// burrowsWheeler sorts all rotations of data, and returns the last column and the row of data itself. It sorts by one byte, then by
// two, four, …: rows that are in the order of their first k bytes are put in that of 2k by one stable counting sort.
func burrowsWheeler(data []byte) (last []byte, origin int) {
	n := len(data)
	rows, shifted := make([]int, n), make([]int, n)
	rank, next := make([]int, n), make([]int, n) // equal for rows that are equal so far
	starts := make([]int, max(n, 256)+1)
	for i, c := range data {
		shifted[i], rank[i] = i, int(c)
	}
	for k := 1; ; k *= 2 {
		clear(starts)
		for _, r := range rank {
			starts[r+1]++
		}
		for r := range len(starts) - 1 {
			starts[r+1] += starts[r]
		}
		for _, row := range shifted {
			rows[starts[rank[row]]] = row
			starts[rank[row]]++
		}
		// k is 1 for the first sort, which looked at one byte; the next ones look at k/2 bytes twice.
		half, r := k/2, 0
		for i, row := range rows {
			if i > 0 {
				before := rows[i-1]
				if rank[row] != rank[before] || rank[(row+half)%n] != rank[(before+half)%n] {
					r++
				}
			}
			next[row] = r
		}
		rank, next = next, rank
		if r == n-1 || k >= n { // rows that are equal all round unpack to the same in any order
			break
		}
		for i, row := range rows {
			shifted[i] = (row - k%n + n) % n
		}
	}
	last = make([]byte, n)
	for i, row := range rows {
		last[i] = data[(row+n-1)%n]
		if row == 0 {
			origin = i
		}
	}
	return last, origin
}

// moveToFront codes the column as places in a list of the used bytes, with runs of place 0 in bijective base 2.
func moveToFront(column []byte) (symbols []int, used [256]bool, alphabet int) {
	for _, c := range column {
		used[c] = true
	}
	var list []byte
	for c, u := range used {
		if u {
			list = append(list, byte(c))
		}
	}
	alphabet = len(list) + 2
	run := 0
	flush := func() {
		for ; run > 0; run = (run - 1) / 2 {
			symbols = append(symbols, (run+1)%2) // RUNA is 0, RUNB is 1
		}
	}
	for _, c := range column {
		i := slices.Index(list, c)
		if i == 0 {
			run++
			continue
		}
		flush()
		symbols = append(symbols, i+1)
		copy(list[1:i+1], list[:i])
		list[0] = c
	}
	flush()
	return append(symbols, alphabet-1), used, alphabet
}

// bzip2CRC is the CRC-32 with its bits in the other order than hash/crc32's.
func bzip2CRC(data []byte) uint32 {
	flipped := make([]byte, len(data))
	for i, c := range data {
		flipped[i] = bits.Reverse8(c)
	}
	return bits.Reverse32(crc32.ChecksumIEEE(flipped))
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

type bitWriter struct {
	out  []byte
	acc  uint64
	have int
}

// bits appends the n lowest bits of v, the highest first; n is at most 48.
func (w *bitWriter) bits(v uint64, n int) {
	w.acc = w.acc<<n | v&(1<<n-1)
	for w.have += n; w.have >= 8; w.have -= 8 {
		w.out = append(w.out, byte(w.acc>>(w.have-8)))
	}
}

func (w *bitWriter) bytes() []byte {
	if w.have > 0 {
		w.bits(0, 8-w.have)
	}
	return w.out
}

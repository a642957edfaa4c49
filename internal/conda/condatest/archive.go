package condatest

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
)

// file is one entry of a tarball. An empty type is a regular file's.
type file struct {
	name string
	body []byte
	typ  byte
	link string
}

// tarball holds files in their order, with nothing in it that changes from run to run.
func tarball(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Linkname: f.link, Size: int64(len(f.body)), Mode: 0o644, Format: tar.FormatPAX}
		if f.typ != 0 {
			h.Typeflag = f.typ
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("adding %s to a tarball: %w", f.name, err)
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, fmt.Errorf("adding %s to a tarball: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("closing a tarball: %w", err)
	}
	return b.Bytes(), nil
}

// header is the tar header of a file of size bytes, without the file.
func header(name string, size int64) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatUSTAR})
	return b.Bytes(), err
}

// zstandard compresses data to one frame, always the same.
func zstandard(data []byte) ([]byte, error) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return nil, fmt.Errorf("starting zstd: %w", err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil), nil
}

// member is one entry of a ZIP.
type member struct {
	name     string
	body     []byte
	deflate  bool // compressed, as CEP 35 forbids
	describe bool // sizes after the bytes instead of before them
}

func zipped(members []member, comment string) ([]byte, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, m := range members {
		h := &zip.FileHeader{Name: m.name, Method: zip.Store}
		var err error
		switch {
		case m.deflate || m.describe:
			if m.deflate {
				h.Method = zip.Deflate
			}
			e, createErr := w.CreateHeader(h)
			if err = createErr; err == nil {
				_, err = e.Write(m.body)
			}
		default:
			h.CRC32 = crc32.ChecksumIEEE(m.body)
			h.CompressedSize64, h.UncompressedSize64 = uint64(len(m.body)), uint64(len(m.body))
			e, createErr := w.CreateRaw(h)
			if err = createErr; err == nil {
				_, err = e.Write(m.body)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("adding %s to a ZIP: %w", m.name, err)
		}
	}
	if err := w.SetComment(comment); err != nil {
		return nil, fmt.Errorf("setting a ZIP's comment: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("closing a ZIP: %w", err)
	}
	return b.Bytes(), nil
}

package event

// Clean makes an error's text fit for strangers, as it is done with what goes into events: without credentials, queries
// of URLs and the folders of paths, valid UTF-8, and at most 4 KiB. source and dirs are paths that are taken out wherever
// they stand: of source the last element stays. It errs on the side of taking too much.
func Clean(text, source string, dirs ...string) string { return scrub(text, source, dirs...) }

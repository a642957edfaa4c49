// Package command is what the producer and the worker have in common as programs: arguments and environment flow in;
// results flow to stdout, progress, logs and errors to stderr, and an exit code out.
//
// Every command has --json; every flag has an environment variable HALLMARK_<FLAG>; an error reaches the terminal with
// its cause, the item it concerns and a hint.
package command

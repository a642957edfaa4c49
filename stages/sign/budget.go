package sign

import (
	"context"
	"time"
)

// Budget bounds how often the services are called, by all workers together. Services are named "rekor", "fulcio" and
// "timestamp". *queue.Budget is one.
type Budget interface {
	// Take waits until a request may be made to each of the services, urgent callers first. What it returns is asked right
	// before each request: whether the permission is still good, which it is for one request and a short time.
	Take(ctx context.Context, urgent bool, services ...string) (use func(service string) bool, err error)
	// Pause says that the service does not want to be asked for d.
	Pause(service string, d time.Duration)
}

var budgetNames = map[string]string{serviceRekor: "rekor", serviceFulcio: "fulcio", serviceTSA: "timestamp"}

// Under returns a signer that is s, certificate and all, and calls the services within the budget. Every request counts:
// a retry, a signature that is made anew, the look at an entry that a log has already. A certificate that serves many
// signatures counts where it was asked for.
//
// Permission for the timestamp and the log entry is taken together, before the certificate's age is looked at, since a wait
// must not age the certificate; what is over when its request is due is taken again, ahead of those that have not begun.
func (s *KeylessSigner) Under(b Budget) Signer { return &budgeted{s, b} }

type budgeted struct {
	signer *KeylessSigner
	budget Budget
}

func (s *budgeted) Identity(ctx context.Context) (identity, issuer string, err error) {
	return s.signer.Identity(context.WithValue(ctx, budgetKey{}, allowance{budget: s.budget}))
}

func (s *budgeted) Claims(ctx context.Context) (map[string]string, error) {
	return s.signer.Claims(context.WithValue(ctx, budgetKey{}, allowance{budget: s.budget}))
}

func (s *budgeted) Sign(ctx context.Context, statement []byte) ([]byte, error) {
	return s.signer.Sign(context.WithValue(ctx, budgetKey{}, allowance{budget: s.budget}), statement)
}

// allowance is what a context carries: the budget, and the permission that was taken for what is done in it.
type allowance struct {
	budget Budget
	use    func(service string) bool
}

type budgetKey struct{}

// turn waits until a statement may be signed, and returns the context to do so in.
func (s *KeylessSigner) turn(ctx context.Context, urgent bool) (context.Context, error) {
	e, err := s.selected(time.Now())
	if err != nil {
		return nil, err
	}
	if len(e.tsas) == 0 {
		return await(ctx, urgent, budgetNames[serviceRekor])
	}
	return await(ctx, urgent, budgetNames[serviceTSA], budgetNames[serviceRekor])
}

// await waits for permission to call the services, and returns a context with it.
func await(ctx context.Context, urgent bool, services ...string) (context.Context, error) {
	a, ok := ctx.Value(budgetKey{}).(allowance)
	if !ok {
		return ctx, nil
	}
	var err error
	if a.use, err = a.budget.Take(ctx, urgent, services...); err != nil {
		return nil, err
	}
	return context.WithValue(ctx, budgetKey{}, a), nil
}

// spend uses the context's permission for a request to the service, or waits for a new one.
func spend(ctx context.Context, service string) error {
	a, ok := ctx.Value(budgetKey{}).(allowance)
	if !ok || a.use != nil && a.use(service) {
		return nil
	}
	for {
		use, err := a.budget.Take(ctx, true, service)
		if err != nil {
			return err
		}
		if use(service) {
			return nil
		}
	}
}

func pauseBudget(ctx context.Context, service string, d time.Duration) {
	if a, ok := ctx.Value(budgetKey{}).(allowance); ok {
		a.budget.Pause(service, d)
	}
}

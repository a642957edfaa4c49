package main

// campaignCmd controls campaigns.
type campaignCmd struct {
	Rate campaignRateCmd `cmd:"" help:"Show how often the upstreams may be asked, and change it while workers work."`
}

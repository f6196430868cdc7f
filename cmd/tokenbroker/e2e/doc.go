// Package e2e has the tests that a user could have written: the compiled program as processes, a real Redis, a real
// authorization server over HTTP, browsers with their own cookie jars, and nothing but the contract to go by.
//
// # Faults
//
// What must be withstood, and the test that shows it with real processes:
//
//	many callers, a slow provider                  TestStampede, TestThousandRefreshes
//	whoever asked has gone                         TestClientLeavesInARefresh
//	killed before the POST, after it, before and   TestKilledInARefreshStrict, TestKilledOrStoppedInARefreshGrace
//	after the commit; with a spool and without
//	killed at random                               TestKillMatrix; 1,000 times: TestChaos
//	stopped for longer than the lease              TestKilledOrStoppedInARefreshGrace
//	stopped for longer than the provider's timeout  TestStoppedAcrossTheProvidersTimeout
//	Redis down, hung, slow, without its scripts    TestRedisDown, TestRedisHung, TestRedisSlowAndForgetful
//	Redis full, read-only, its disk full           TestRedisRefuses
//	how soon all is well when Redis is back        TestRedisReturns
//	Redis hangs while a code is redeemed           TestRedisHangsDuringExchange
//	an answer of Redis lost                        TestRedisLosesAnAnswer
//	failover, with what was acknowledged lost      TestSentinelFailoverUnderLoad, TestFailoverLosesARefresh,
//	                                               TestFailoverLosesALease
//	one master of a Cluster lost                   TestClusterLosesAMaster
//	Sentinel, Cluster, odd hash tags, CROSSSLOT    TestContractOnSentinelAndCluster
//	provider refuses, hangs, floods, drips         TestProviderDoesNothing, TestProviderHangsOthersDoNotNotice
//	provider resets after it did its work          TestProviderResetsAfterwards
//	odd answers, reuse behind the broker's back    TestProviderAnswersOddly
//	SIGTERM with work in flight                    TestShutdownWithFlowsInFlight
//	a record of a newer format                     TestNewerRecord
//
// What people may try with links and accounts of others: TestForwardedLinkInThreeJars, and with a sign-in at their organisation
// TestConsentWithLogin.
//
// What operators may and may not: TestThreat63RolesMatrix asks for each page and action in each role, from one table that every route
// of the dashboard must be in; how they get in and out: TestOperatorsSignIn, and in Chromium TestOperatorsInChromium,
// TestOperatorsLeaveInChromium and TestThreat61OtherSitesInChromium.
//
// A clock that jumps has no test here: there is no clean way to give one process another clock. Time is a port of package
// broker, and its simulation moves it.
//
// # Chaos
//
// With the build tag chaos there is TestChaos: 1,000 random kills, then each topology under faults of every kind at once, by
// seed. `make chaos` runs it and writes the numbers to deploy/bench.
package e2e

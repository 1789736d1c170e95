package main

// fault is one thing that goes wrong.
type fault struct {
	number int
	what   string
	tests  []test
}

// test is a top-level test of a package. What it counts itself it says in a line "verdict: ...".
type test struct{ pkg, name string }

func of(pkg string, names ...string) []test {
	var all []test
	for _, n := range names {
		all = append(all, test{pkg, n})
	}
	return all
}

func and(all ...[]test) []test {
	var tests []test
	for _, one := range all {
		tests = append(tests, one...)
	}
	return tests
}

const (
	e2e     = "./e2e"
	local   = "./engine/local"
	process = "./driver/process"
	plane   = "./proxy"
	store   = "./state"
	control = "./server"
)

var faults = []fault{
	{1, "a program is killed", and(of(e2e, "TestKilledEverySecond", "TestEngine"), of(plane, "TestKilledInstance", "TestKilledOnlyInstance"))},
	{2, "Trellis is killed", and(of(e2e, "TestKillingControlOrDataPlaneRefusesNoConnection", "TestKillingTheHolderOrAllRestartsNoInstance", "TestWhatHappenedMeanwhileIsKnownAfterwards"), of(process, "TestKilledDriverLosesNothing"))},
	{3, "Trellis is killed again and again", and(of(e2e, "TestTrellisSurvivesFiftyKills"), of(local, "TestLoopKilledAtEveryStep"), of(store, "TestKilledWriterLosesNothingAcknowledged"))},
	{4, "the state file is damaged", and(of(e2e, "TestStateDamagedWhileServicesRun"), of(store, "TestDamagedFileIsRefusedAndKept", "TestDamagedRowsAreErrors"))},
	{5, "a pid has become somebody else's, or the machine was started again", and(of(process, "TestStrangersAreNeverSignalled"), of(e2e, "TestRebootBringsTheLastHealthyRevisionBack", "TestSystemdBringsItBack"))},
	{6, "programs crash in a loop", and(of(e2e, "TestCrashLoopsHurtNobody"), of(local, "TestCrashLoopBacksOff", "TestKilledAgainAndAgain"))},
	{7, "programs breed and ignore SIGTERM", and(of(e2e, "TestBreedersEnd"), of(process, "TestTreesEnd"))},
	{8, "a program hangs", and(of(e2e, "TestHungInstance"), of(local, "TestHungInstanceIsReplaced"))},
	{9, "a version is never ready", of(e2e, "TestBadVersionsGoBackByThemselves")},
	{10, "a version is ready, then bad", of(e2e, "TestBadVersionsGoBackByThemselves")},
	{11, "Trellis is killed in the middle of a rollout", and(of(e2e, "TestRolloutOutlivesItsControlPlane", "TestRolloutsLoseNothing", "TestTwoHundredRollouts", "TestCanaryPassesAndIsAborted"), of(local, "TestRolloutsAreFinishedOrUndone", "TestPlanConverges", "TestRolloutsNeverServeLess", "TestDrainsLeaveEnough"))},
	{12, "memory is used up", and(of(e2e, "TestMemoryUsedUp"), of(process, "TestOutOfMemory"))},
	{13, "neighbours fork, leak and print", and(of(e2e, "TestGreedyNeighbours"), of(process, "TestFlood"))},
	{14, "the autoscaler sees waves, or nothing", and(of(e2e, "TestScaledToNothingAServiceWakesAndLosesNothing", "TestAStepOfLoadIsMetWithReplicasAndLosesNothing"), of("./autoscale", "TestSquareWaveMovesWithinBounds", "TestMissingMeasurementsHold", "TestAnUnknownMetricKeepsFromScalingDown"))},
	{15, "the Docker engine is away, or hangs", and(of(e2e, "TestDockerEngineComesAndGoes", "TestDocker"), of(local, "TestADaemonIsAway", "TestADaemonIsAwayAndItsInstancesEnd", "TestAControlPlaneStartsWithoutTheDaemon", "TestDeleteWithoutTheDaemon", "TestADaemonThatHangsHoldsNoSeat"))},
	{16, "the disk is full", and(of(control, "TestRoom"), of(local, "TestWhatWaitsForAPersonGoesBackAtOnce"), of(e2e, "TestFullDisk", "TestEveryErrorOfTheTableIsSaidAndHasItsRemedy"), of(process, "TestEndThatCannotBeWritten"), of("./shim", "TestAFullDiskLosesLinesAndSaysSo"), of("./telemetry/segment", "TestAFullDiskIsSurvived"))},
	{17, "the disk fails", of(e2e, "TestDiskFails")},
	{18, "the power is cut", of(e2e, "TestPowerCuts")},
	{19, "the state's folder is not one's own", of(e2e, "TestEveryErrorOfTheTableIsSaidAndHasItsRemedy")},
	{20, "the clock is set", and(of(local, "TestTheClockIsSet"), of("./identity", "TestSkewedClock"))},
	{21, "the machine sleeps for a day", and(of(control, "TestASleepIsNoticed"), of(local, "TestADayAsleepRestartsNothing"), of("./identity", "TestADayAsleep"))},
	{22, "file descriptors run out", and(of(e2e, "TestFilesRunOut"), of(plane, "TestRoomIsMade", "TestConnectionLimit", "TestARequestThatCameIsAnswered", "TestFilesOfTheIdleAreFreed"))},
	{23, "a request runs into a fault of ours", of(plane, "TestFaultsStayInTheirRequest")},
	{24, "an instance answers wrongly, in part, late or not at all", of(plane, "TestUpstreamFaults", "TestBrokenBeforeHead", "TestTruncatedResponsesStayTruncated", "TestStaleConnection", "TestNeverArrived", "TestEarlyAnswer", "TestTryTimeout", "TestBrokenPassThrough")},
	{25, "all instances are gone, and back", of(plane, "TestAllGoneAndBack", "TestRetryStorm", "TestComesBack", "TestBreaker")},
	{26, "instances say that they are busy", of(plane, "TestBusyInstancesAreLeftAlone")},
	{27, "clients break off", of(plane, "TestClientGoesAway", "TestStalledClients", "TestNoFilesLeak", "TestClientsThatGoAwayBlameNobody")},
	{28, "clients are slow, or flood", of(plane, "TestSlowClientsHurtNobody", "TestFloodsOfFrames", "TestFloodsHurtNobody", "TestBounds", "TestSlowHeaders")},
	{29, "configuration changes all the time", of(plane, "TestSnapshotsUnderLoad", "TestSnapshots")},
	{30, "the keys of tokens are away, slow, or others", and(of("./identity", "TestKeysRotate", "TestKeysUnavailable", "TestKeySets"), of(plane, "TestKeysThatCannotBeHad"))},
	{31, "certificates end, are swapped, or prove another", and(of("./identity", "TestRotate", "TestRotateAtOnce", "TestRootElsewhere", "TestExpiredRoot", "TestSkewedClock", "TestBrokenDomain"), of(plane, "TestMutualFailsClosed", "TestRotationUnderStreams", "TestCertificatesAreSwapped", "TestExpiredCertificate"), of(e2e, "TestMutualTLS"))},
	{32, "the network between two hosts fails", of(plane, "TestPartition", "TestLinkNextInstance", "TestDelivery")},
	{40, "incidents, explained and alerted", of(e2e, "TestIncidents")},
	{41, "a cluster's API server is away, slow or refuses, a deploy to it is killed, a node is lost", of(e2e, "TestKubernetesServerTrouble", "TestKubernetesAppliesKilled", "TestKubernetesPreStartFails", "TestKubernetesNodeLost", "TestKubernetesNodeDies", "TestKubernetesDataOnADeadNode", "TestKubernetesDataPlane")},
	{42, "somebody changes by hand what runs", of(e2e, "TestDriftOfProcesses", "TestKubernetesDrift", "TestKubernetesDriftIsTold")},
	{43, "terraform is killed, and its state lost", of(e2e, "TestTerraform", "TestTerraformKilled", "TestKubernetesTerraform")},
}

//! What controllers send in a simulated world, and how the programs they name behave.

use limpet_core::message::{Outcome, Spec, StepHeader, When};

/// The world's own generator, so that its choices do not depend on the machine's.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        // xorshift64* (Vigna 2016)
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// How one attempt of a planned step behaves.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    pub run_ms: u64,
    pub exit: i32,
    pub ignores_term: bool,
    pub unkillable: bool,
    pub spawn_fails: bool,
    pub refused: bool,
    pub skipped: bool,
    pub continues: bool,
    pub silent: bool,
    pub executor: u8,
}

#[derive(Clone, Debug)]
pub struct PlannedStep {
    pub header: StepHeader,
    pub spec: Spec,
    pub seed: u64,
    /// How each attempt behaves, instead of as `seed` says.
    pub fixed: Option<Behaviour>,
}

impl Behaviour {
    /// A process that does nothing special.
    pub const PLAIN: Behaviour = Behaviour {
        run_ms: 0,
        exit: 0,
        ignores_term: false,
        unkillable: false,
        spawn_fails: false,
        refused: false,
        skipped: false,
        continues: false,
        silent: true,
        executor: 5,
    };
}

/// One attempt, and clocks that no plain process meets.
pub const SPEC: Spec = Spec {
    start_to_close_ms: 500,
    heartbeat_ms: 0,
    grace_ms: 50,
    maximum_attempts: 1,
    before_exec_only: false,
    initial_interval_ms: 10,
    backoff_milli: 2000,
    maximum_interval_ms: 1000,
    jitter_milli: 0,
};

#[derive(Clone, Debug)]
pub struct Plan {
    pub key: u128,
    pub digest: u64,
    pub source: u64,
    pub expires_ms: u64,
    pub waived: bool,
    pub close_ms: u64,
    pub finally_ms: u32,
    pub priority: i8,
    pub additions: u8,
    pub steps: Vec<PlannedStep>,
}

impl Plan {
    pub fn behaviour(&self, step: u8, number: u8) -> Behaviour {
        if let Some(fixed) = self.steps[step as usize].fixed {
            return fixed;
        }
        let seed = self.steps[step as usize].seed ^ (u64::from(number) << 32);
        let mut random = Random(seed | 1);
        random.next();
        let header = self.steps[step as usize].header;
        Behaviour {
            run_ms: random.below(400),
            exit: i32::from(random.one_in(3)) * (1 + i32::try_from(random.below(100)).unwrap_or(0)),
            ignores_term: random.one_in(4),
            unkillable: random.one_in(400),
            spawn_fails: random.one_in(12),
            refused: random.one_in(40),
            skipped: random.one_in(25),
            continues: self.additions > 0 && !header.finally && random.one_in(3),
            silent: random.one_in(5),
            executor: u8::try_from(random.below(6)).unwrap_or(0),
        }
    }
}

pub fn random_step(random: &mut Random, index: usize, finally: bool) -> PlannedStep {
    let stop = random.one_in(2);
    let when = match (index, random.below(6)) {
        (0, _) => When::Always,
        (_, 0) => When::Outcome {
            step: u8::try_from(random.below(index as u64)).unwrap_or(0),
            outcome: if random.one_in(2) { Outcome::Succeeded } else { Outcome::Failed },
            negate: random.one_in(2),
        },
        (_, 1) => When::ExitCode {
            step: u8::try_from(random.below(index as u64)).unwrap_or(0),
            code: i32::try_from(random.below(3)).unwrap_or(0),
            negate: random.one_in(2),
        },
        _ => When::Always,
    };
    PlannedStep {
        header: StepHeader {
            finally,
            stop,
            guarded: random.one_in(3),
            reboot: stop && random.one_in(10),
            schedule_to_start_ms: if random.one_in(5) { 500 } else { 0 },
            memory_kib: u32::try_from(random.below(9)).unwrap_or(0) * 100,
            when,
        },
        spec: Spec {
            start_to_close_ms: 1 + u32::try_from(random.below(500)).unwrap_or(0),
            heartbeat_ms: if random.one_in(4) { 60 } else { 0 },
            grace_ms: u32::try_from(random.below(100)).unwrap_or(0),
            maximum_attempts: if random.one_in(2) { 1 } else { 3 },
            before_exec_only: stop,
            initial_interval_ms: 10,
            backoff_milli: 2000,
            maximum_interval_ms: 1000,
            jitter_milli: 250,
        },
        seed: random.next(),
        fixed: None,
    }
}

pub fn random_plan(random: &mut Random, number: u64, wall_ms: u64) -> Plan {
    let main = 1 + random.below(5) as usize;
    let finally = random.below(3) as usize;
    let steps =
        (0..main + finally).map(|index| random_step(random, index, index >= main)).collect();
    Plan {
        key: u128::from(number) << 64 | 7,
        digest: random.next(),
        source: random.below(3),
        expires_ms: wall_ms + if random.one_in(6) { random.below(60_000) } else { 86_400_000 },
        waived: !random.one_in(4),
        close_ms: if random.one_in(3) { 200 + random.below(1500) } else { 0 },
        finally_ms: 300,
        priority: i8::try_from(random.below(5)).unwrap_or(0) - 2,
        additions: if random.one_in(3) { 6 } else { 0 },
        steps,
    }
}

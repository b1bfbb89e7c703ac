//! A mark for each task slot, so that a search over all tasks passes over those it does not want
//! without a look at them: 1,024 slots are 16 words, and the tasks themselves more than a cache.

/// One bit per slot.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Marks(Box<[u64]>);

impl Marks {
    /// None of `slots` is marked.
    pub fn new(slots: u16) -> Marks {
        Marks(vec![0; usize::from(slots).div_ceil(64)].into_boxed_slice())
    }

    /// Marks a slot, or does not any more.
    pub fn put(&mut self, slot: u16, marked: bool) {
        let (word, bit) = (&mut self.0[usize::from(slot) / 64], 1 << (slot % 64));
        *word = if marked { *word | bit } else { *word & !bit };
    }

    /// Whether a slot is marked.
    pub fn has(&self, slot: u16) -> bool {
        self.0[usize::from(slot) / 64] & 1 << (slot % 64) != 0
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The first marked slot, which is then marked no more.
    pub fn take(&mut self) -> Option<u16> {
        let slot = self.iter().next()?;
        self.put(slot, false);
        Some(slot)
    }

    /// The marked slots, in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0u16..).step_by(64).zip(&*self.0).flat_map(|(first, &word)| {
            let next = |rest: &u64| Some(rest & (rest - 1)).filter(|rest| *rest != 0);
            let words = std::iter::successors(Some(word).filter(|word| *word != 0), next);
            words.map(move |rest| first + rest.trailing_zeros() as u16)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Marks;

    #[test]
    fn marks_are_found_in_order_and_once() {
        let mut marks = Marks::new(1000);
        assert!(marks.is_empty());
        for slot in [999, 0, 64, 63, 127, 128] {
            marks.put(slot, true);
        }
        marks.put(128, false);
        assert_eq!(marks.iter().collect::<Vec<_>>(), [0, 63, 64, 127, 999]);
        assert!(marks.has(64) && !marks.has(65));
        let taken: Vec<u16> = std::iter::from_fn(|| marks.take()).collect();
        assert_eq!(taken, [0, 63, 64, 127, 999]);
        assert!(marks.is_empty());
    }
}

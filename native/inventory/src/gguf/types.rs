//! The numbers of GGUF: types of values and of tensors, and llama.cpp's names of file types.

/// Types of values, by number.
pub const VALUES: [&str; 13] =
    ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"];
pub const U32: u64 = 4;
pub const BOOL: u64 = 7;
pub const STRING: u64 = 8;
pub const ARRAY: u64 = 9;

/// Bytes of a value of one of the types; zero for those whose length stands with them.
pub const VALUE_BYTES: [u8; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

/// A type of tensors: values in one block, and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorType {
    pub name: &'static str,
    pub block: u64,
    pub bytes: u64,
}

/// What a number of a tensor's type stands for.
pub enum Found {
    Type(TensorType),
    /// It stood for something once.
    Removed,
    Unknown,
}

/// By number; a block of zero is a type that was removed.
const TENSORS: [(&str, u16, u16); 42] = [
    ("F32", 1, 4),
    ("F16", 1, 2),
    ("Q4_0", 32, 18),
    ("Q4_1", 32, 20),
    ("", 0, 0),
    ("", 0, 0),
    ("Q5_0", 32, 22),
    ("Q5_1", 32, 24),
    ("Q8_0", 32, 34),
    ("Q8_1", 32, 36),
    ("Q2_K", 256, 84),
    ("Q3_K", 256, 110),
    ("Q4_K", 256, 144),
    ("Q5_K", 256, 176),
    ("Q6_K", 256, 210),
    ("Q8_K", 256, 292),
    ("IQ2_XXS", 256, 66),
    ("IQ2_XS", 256, 74),
    ("IQ3_XXS", 256, 98),
    ("IQ1_S", 256, 50),
    ("IQ4_NL", 32, 18),
    ("IQ3_S", 256, 110),
    ("IQ2_S", 256, 82),
    ("IQ4_XS", 256, 136),
    ("I8", 1, 1),
    ("I16", 1, 2),
    ("I32", 1, 4),
    ("I64", 1, 8),
    ("F64", 1, 8),
    ("IQ1_M", 256, 56),
    ("BF16", 1, 2),
    ("", 0, 0),
    ("", 0, 0),
    ("", 0, 0),
    ("TQ1_0", 256, 54),
    ("TQ2_0", 256, 66),
    ("", 0, 0),
    ("", 0, 0),
    ("", 0, 0),
    ("MXFP4", 32, 17),
    ("NVFP4", 64, 36),
    ("Q1_0", 128, 18),
];

/// What the number of a tensor's type stands for.
pub fn tensor_type(number: u64) -> Found {
    let known = usize::try_from(number).ok().and_then(|index| TENSORS.get(index));
    match known {
        None => Found::Unknown,
        Some((_, 0, _)) => Found::Removed,
        Some(&(name, block, bytes)) => {
            Found::Type(TensorType { name, block: block.into(), bytes: bytes.into() })
        }
    }
}

/// llama.cpp's `llama_ftype`, without what all its names begin with. What was removed keeps its
/// name, because files that say so exist.
const FILES: [(u8, &str); 41] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (4, "Q4_1_SOME_F16"),
    (5, "Q4_2"),
    (6, "Q4_3"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K_S"),
    (12, "Q3_K_M"),
    (13, "Q3_K_L"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
    (19, "IQ2_XXS"),
    (20, "IQ2_XS"),
    (21, "Q2_K_S"),
    (22, "IQ3_XS"),
    (23, "IQ3_XXS"),
    (24, "IQ1_S"),
    (25, "IQ4_NL"),
    (26, "IQ3_S"),
    (27, "IQ3_M"),
    (28, "IQ2_S"),
    (29, "IQ2_M"),
    (30, "IQ4_XS"),
    (31, "IQ1_M"),
    (32, "BF16"),
    (33, "Q4_0_4_4"),
    (34, "Q4_0_4_8"),
    (35, "Q4_0_8_8"),
    (36, "TQ1_0"),
    (37, "TQ2_0"),
    (38, "MXFP4_MOE"),
    (39, "NVFP4"),
    (40, "Q1_0"),
];

/// The name of a file type.
pub fn file_type(number: u64) -> Option<&'static str> {
    FILES.iter().find(|(known, _)| u64::from(*known) == number).map(|(_, name)| *name)
}

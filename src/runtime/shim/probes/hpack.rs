//! As much of HPACK (RFC 7541) as one answer takes: what `:status` and `grpc-status` say. The table of earlier fields is
//! empty, because the peer was told so (SETTINGS_HEADER_TABLE_SIZE 0); of Huffman's code only the digits are known, and
//! the name in question as it looks in it.

/// `grpc-status` in the code of appendix B.
const STATUS_IN_CODE: [u8; 8] = [0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f];
/// Appendix A: `:status` with 200, 204, 206, 304, 400, 404 and 500, from this number on.
const FIRST_STATUS: usize = 8;
const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
const STATIC: usize = 61;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Of HTTP.
    pub status: Option<u16>,
    pub grpc_status: Option<u16>,
}

enum Name<'a> {
    Numbered(usize),
    Text { coded: bool, bytes: &'a [u8] },
}

/// Reads one whole header block; `None` where it is not one.
pub fn read(mut block: &[u8], found: &mut Found) -> Option<()> {
    while let Some(first) = block.first() {
        match first {
            // Indexed field.
            0x80.. => {
                let index = integer(&mut block, 7)?;
                if (FIRST_STATUS..FIRST_STATUS + STATUSES.len()).contains(&index) {
                    found.status = Some(STATUSES[index - FIRST_STATUS]);
                }
                (1..=STATIC).contains(&index).then_some(())?;
            }
            // A change of the table's size: there is none.
            0x20..0x40 => drop(integer(&mut block, 5)?),
            // Literal: to be remembered, or not.
            _ => {
                let bits = if *first >= 0x40 { 6 } else { 4 };
                let name = match integer(&mut block, bits)? {
                    0 => string(&mut block).map(|(coded, bytes)| Name::Text { coded, bytes })?,
                    index => (index <= STATIC).then_some(Name::Numbered(index))?,
                };
                let (coded, value) = string(&mut block)?;
                note(&name, coded, value, found);
            }
        }
    }
    Some(())
}

fn note(name: &Name<'_>, coded: bool, value: &[u8], found: &mut Found) {
    let number = || if coded { coded_number(value) } else { std::str::from_utf8(value).ok()?.parse().ok() };
    match name {
        Name::Numbered(index) if (FIRST_STATUS..FIRST_STATUS + STATUSES.len()).contains(index) => {
            found.status = number();
        }
        Name::Text { coded: false, bytes: b"grpc-status" } => found.grpc_status = number(),
        Name::Text { coded: true, bytes } if *bytes == STATUS_IN_CODE => found.grpc_status = number(),
        _ => {}
    }
}

/// Section 5.1, with a prefix of so many bits.
fn integer(block: &mut &[u8], bits: u32) -> Option<usize> {
    let mask = (1usize << bits) - 1;
    let (first, rest) = block.split_first()?;
    *block = rest;
    let mut value = usize::from(*first) & mask;
    if value < mask {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let (byte, rest) = block.split_first()?;
        *block = rest;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Section 5.2: whether it is in Huffman's code, and its bytes.
fn string<'a>(block: &mut &'a [u8]) -> Option<(bool, &'a [u8])> {
    let coded = block.first()? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length)?;
    *block = rest;
    Some((coded, bytes))
}

/// Digits: 0 to 2 are 00000 to 00010, and 3 to 9 are 011001 to 011111; ones fill the last byte.
fn coded_number(bytes: &[u8]) -> Option<u16> {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let mut number: u16 = 0;
    while bits.clone().take(8).any(|bit| bit == 0) {
        let mut code: u16 = 0;
        for _ in 0..5 {
            code = code << 1 | u16::from(bits.next()?);
        }
        let digit = match code {
            0..=2 => code,
            0b01100..=0b01111 => (code << 1 | u16::from(bits.next()?)) - 0b011001 + 3,
            _ => return None,
        };
        number = number.checked_mul(10)?.checked_add(digit)?;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(block: &[u8]) -> Option<Found> {
        let mut found = Found::default();
        read(block, &mut found).map(|()| found)
    }

    #[test]
    fn both_states_are_found_in_every_form() {
        let both = |status, grpc_status| Some(Found { status, grpc_status });
        assert_eq!(found(&[0x20, 0x88]), both(Some(200), None));
        // A literal of another status, as appendix C.6.1 has it: 302 in Huffman's code.
        assert_eq!(found(&[0x48, 0x82, 0x64, 0x02]), both(Some(302), None));
        let plain = [&[0x00, 11][..], b"grpc-status", &[2], b"12"].concat();
        assert_eq!(found(&plain), both(None, Some(12)));
        let coded = [&[0x40, 0x88][..], &STATUS_IN_CODE, &[1], b"5"].concat();
        assert_eq!(found(&coded), both(None, Some(5)));
        // 5 in code: 011011 and two ones.
        let coded = [&[0x40, 0x88][..], &STATUS_IN_CODE, &[0x81, 0b0110_1111]].concat();
        assert_eq!(found(&coded), both(None, Some(5)));
    }

    #[test]
    fn what_is_cut_off_or_refers_to_nothing_is_no_block() {
        for block in
            [&[0x80][..], &[0xbe], &[0x7f, 0xff, 0xff, 0xff, 0xff], &[0x00, 11, b'g'], &[0x00], &[0x48, 0x82, 0x64]]
        {
            assert_eq!(found(block), None, "{block:x?}");
        }
    }
}

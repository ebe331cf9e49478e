//! The field that shares are computed in: GF(2⁸) with the polynomial x⁸ + x⁴ + x³ + x + 1 (0x11b), that of AES (FIPS 197, 4.2)
//! and of Vault. Nothing here branches on its operands or looks them up in a table: they are secret.

/// What is added when a product leaves the field: 0x11b without its highest bit.
const REDUCTION: u8 = 0x1b;

/// The product.
pub(crate) fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    for _ in 0..8 {
        product ^= a & (b & 1).wrapping_neg();
        let leaves = (a >> 7).wrapping_neg();
        a = (a << 1) ^ (REDUCTION & leaves);
        b >>= 1;
    }
    product
}

/// What `a` has to be multiplied with to give one; zero for zero. It is a²⁵⁴, since a²⁵⁵ is one for all others.
pub(crate) fn inverse(a: u8) -> u8 {
    // 254 is 0b1111_1110: the squares from the second on, multiplied.
    let (mut power, mut product) = (a, 1);
    for _ in 1..8 {
        power = multiply(power, power);
        product = multiply(product, power);
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_fips_197() {
        // FIPS 197, 4.2 and 4.2.1.
        assert_eq!(multiply(0x57, 0x83), 0xc1);
        assert_eq!(multiply(0x57, 0x13), 0xfe);
        assert_eq!([0x02, 0x04, 0x08, 0x10].map(|by| multiply(0x57, by)), [0xae, 0x47, 0x8e, 0x07]);
    }

    #[test]
    fn it_is_a_field() {
        for a in 0..=255 {
            assert_eq!(multiply(a, 1), a);
            assert_eq!(multiply(a, inverse(a)), u8::from(a != 0));
            for b in 0..=255 {
                assert_eq!(multiply(a, b), multiply(b, a));
                let c = a.rotate_left(3) ^ b;
                assert_eq!(multiply(a, b ^ c), multiply(a, b) ^ multiply(a, c));
                assert_eq!(multiply(multiply(a, b), c), multiply(a, multiply(b, c)));
            }
        }
    }
}

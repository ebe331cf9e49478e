//! The TPM of the machine, as the opener uses it: its word on what was started.
//!
//! Nothing stays in the TPM: its key is made from its seed each time, and is the same each time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use postkeep_firmware::attestation::{AttestationKey, KeyError, OPENED, REGISTERS, SECURE_BOOT};
use postkeep_firmware::digest::Digest as Value;
use postkeep_keys::tpm::{Quoted, Register, Tpm};
use postkeep_keys::{Octets, Sum};
use tss_esapi::Context;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::handles::{KeyHandle, PcrHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Data, Digest, DigestValues, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, PcrSelectionList,
    PcrSlot, PublicBuilder, PublicEccParametersBuilder, SignatureScheme,
};
use tss_esapi::traits::Marshall as _;

/// More than a log has; one that is longer is not handed over, and then nobody believes it.
const LONGEST_LOG: u64 = 256 << 10;
/// The registers may change while they are read: the start goes on.
const TRIES: u32 = 5;

/// The TPM of a machine.
#[derive(Debug, Clone)]
pub struct Chip {
    /// How it is reached, as tpm2-tss names it: `device:/dev/tpmrm0`.
    pub tpm: String,
    /// The log of the boot.
    pub log: PathBuf,
}

/// Why the TPM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ChipError {
    /// See the text.
    #[error("the TPM: {0}")]
    Tpm(#[from] tss_esapi::Error),
    /// See the text.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// See the text.
    #[error("the TPM does what it should not: {0}")]
    Strange(&'static str),
}

/// Whether a machine has one, and how it is reached: `/dev/tpmrm0`.
#[must_use]
pub fn of_this_machine() -> Option<Chip> {
    const DEVICE: &str = "/dev/tpmrm0";
    Path::new(DEVICE).exists().then(|| Chip {
        tpm: format!("device:{DEVICE}"),
        log: "/sys/kernel/security/tpm0/binary_bios_measurements".into(),
    })
}

impl Chip {
    /// What a token says of it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn enrol(&self) -> Result<Tpm, ChipError> {
        let mut context = self.context()?;
        let (_, key) = attestation_key(&mut context)?;
        let secure_boot = register(&mut context, SECURE_BOOT)?;
        Ok(Tpm { key: Octets(key.public().to_vec()), secure_boot: sum(secure_boot) })
    }

    /// The same where custodians know of none yet: a machine with a broken one is taken into use all the same, and nothing rests on it then.
    #[must_use]
    pub fn enrol_if_it_answers(&self) -> Option<Tpm> {
        self.enrol()
            .inspect_err(|error| log::warn!("this machine has a TPM, and nothing will rest on it: {error}"))
            .ok()
    }

    /// Its word on what was started, in answer to `question`. The caller adds what the question was about.
    ///
    /// # Errors
    /// It does not answer.
    pub fn quote(&self, question: Sum) -> Result<Quoted, ChipError> {
        let mut context = self.context()?;
        let log = postkeep_files::beginning(&self.log, LONGEST_LOG + 1)
            .ok()
            .filter(|log| log.len() as u64 <= LONGEST_LOG)
            .unwrap_or_default();
        let (handle, _) = attestation_key(&mut context)?;
        let selection = selection(REGISTERS)?;
        for _ in 0..TRIES {
            let registers = registers(&mut context)?;
            let (attest, signature) = context.execute_with_session(Some(AuthSession::Password), |context| {
                let question = Data::try_from(question.octets().to_vec())?;
                context.quote(handle, question, SignatureScheme::Null, selection.clone())
            })?;
            if self::registers(&mut context)? == registers {
                return Ok(Quoted {
                    attest: Octets(attest.marshall()?),
                    signature: Octets(signature.marshall()?),
                    registers: registers
                        .into_iter()
                        .map(|(number, value)| Register { number, value: sum(value) })
                        .collect(),
                    log: Octets(log),
                    certificate: None,
                });
            }
        }
        Err(ChipError::Strange("its registers do not come to rest"))
    }

    /// Leaves a mark that is there until the machine is started again: the volume was open.
    ///
    /// # Errors
    /// It does not answer.
    pub fn mark_opened(&self) -> Result<(), ChipError> {
        let mut context = self.context()?;
        if register(&mut context, OPENED)? != Value::ZERO {
            return Ok(());
        }
        let mut values = DigestValues::new();
        values.set(HashingAlgorithm::Sha256, Digest::try_from(Value::of(b"postkeep volume opened").0.to_vec())?);
        Ok(context.execute_with_session(Some(AuthSession::Password), |context| {
            context.pcr_extend(PcrHandle::Pcr15, values)
        })?)
    }

    fn context(&self) -> Result<Context, ChipError> {
        Ok(Context::new(self.tpm.parse()?)?)
    }
}

/// The key by which this TPM is known: always the same, made from its seed.
fn attestation_key(context: &mut Context) -> Result<(KeyHandle, AttestationKey), ChipError> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        // Each cut of the power counts as a wrong password for what this does not stand on, and after some the TPM refuses for hours.
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(true)
        .with_restricted(true)
        .build()?;
    let public = PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()?;
    let made = context.execute_with_session(Some(AuthSession::Password), |context| {
        context.create_primary(Hierarchy::Endorsement, public, None, None, None, None)
    })?;
    Ok((made.key_handle, AttestationKey::read(&made.out_public.marshall()?)?))
}

fn selection(registers: impl IntoIterator<Item = u32>) -> Result<PcrSelectionList, ChipError> {
    let slots: Vec<PcrSlot> =
        registers.into_iter().map(|register| PcrSlot::try_from(1_u32 << register)).collect::<Result<_, _>>()?;
    Ok(PcrSelectionList::builder().with_selection(HashingAlgorithm::Sha256, &slots).build()?)
}

fn register(context: &mut Context, register: u32) -> Result<Value, ChipError> {
    let (_, _, values) =
        context.execute_without_session(|context| Ok::<_, ChipError>(context.pcr_read(selection([register])?)?))?;
    let value = values.value().first().and_then(|value| value.value().try_into().ok());
    value.map(Value).ok_or(ChipError::Strange("it has no registers of SHA-256"))
}

fn registers(context: &mut Context) -> Result<BTreeMap<u32, Value>, ChipError> {
    REGISTERS.into_iter().map(|number| Ok((number, register(context, number)?))).collect()
}

fn sum(value: Value) -> Sum {
    Sum::from(value.0)
}

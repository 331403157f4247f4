//! The board: its UART, its clock, its memory, and how much memory is used.

use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::exception;
use cortex_m_semihosting::{debug, hprintln};
use embedded_alloc::LlffHeap;
use smtp_proto::Instant;

/// The size of the heap.
const HEAP_SIZE: usize = 32 * 1024;
/// The processor's clock, in ticks of a millisecond.
const TICKS: u32 = 25_000;
/// The content of an unused word of the stack.
const UNUSED: u32 = 0xdead_beef;

static MILLISECONDS: AtomicU32 = AtomicU32::new(0);

#[exception]
fn SysTick() {
    MILLISECONDS.fetch_add(1, Ordering::Relaxed);
}

/// The time since the start. It wraps after 49 days, but a session ends before that.
pub fn now() -> Instant {
    let milliseconds = MILLISECONDS.load(Ordering::Relaxed);
    Instant::from_origin(Duration::from_millis(milliseconds.into()))
}

/// The first UART of the CMSDK, which QEMU connects to the server.
pub struct Uart(());

impl Uart {
    const DATA: *mut u32 = 0x4000_4000 as *mut u32;
    const STATE: *const u32 = 0x4000_4004 as *const u32;
    const CONTROL: *mut u32 = 0x4000_4008 as *mut u32;
    const DIVIDER: *mut u32 = 0x4000_4010 as *mut u32;

    /// Writes one octet after the other, when there is room.
    pub fn write(&mut self, octets: &[u8]) {
        for &octet in octets {
            while self.state() & 1 != 0 {}
            // SAFETY: it is the data register, and there is one `Uart`.
            unsafe { Self::DATA.write_volatile(octet.into()) };
        }
    }

    /// The next octet, if one has come.
    pub fn read(&mut self) -> Option<u8> {
        // SAFETY: as for `write`.
        (self.state() & 2 != 0).then(|| unsafe { Self::DATA.read_volatile() } as u8)
    }

    fn state(&self) -> u32 {
        // SAFETY: it is the state register. Reading it changes nothing.
        unsafe { Self::STATE.read_volatile() }
    }
}

/// Starts the clock, the heap and the UART. It is called once.
pub fn start() -> Uart {
    // SAFETY: nothing has been allocated, and nothing else is between the static data and the stack.
    unsafe {
        HEAP.0.init(cortex_m_rt::heap_start() as usize, HEAP_SIZE);
        for word in free_stack() {
            word.write_volatile(UNUSED);
        }
    }
    // SAFETY: it is called once, so that nobody else has the peripherals.
    let mut core = unsafe { cortex_m::Peripherals::steal() };
    core.SYST.set_clock_source(SystClkSource::Core);
    core.SYST.set_reload(TICKS - 1);
    core.SYST.clear_current();
    core.SYST.enable_counter();
    core.SYST.enable_interrupt();
    // SAFETY: they are the registers of the UART: any rate that it takes, and both ways on.
    unsafe {
        Uart::DIVIDER.write_volatile(16);
        Uart::CONTROL.write_volatile(3);
    }
    Uart(())
}

/// The words between the heap and the used part of the stack.
fn free_stack() -> impl Iterator<Item = *mut u32> {
    let bottom = cortex_m_rt::heap_start() as usize + HEAP_SIZE;
    // The room that this function and its caller still need.
    let top = cortex_m::register::msp::read() as usize - 256;
    (bottom..top).step_by(4).map(|address| address as *mut u32)
}

/// A heap that counts.
struct Counted(LlffHeap);

#[global_allocator]
static HEAP: Counted = Counted(LlffHeap::empty());
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: it is that of `LlffHeap`. What is counted beside changes nothing.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for the caller.
        let allocated = unsafe { self.0.alloc(layout) };
        PEAK.fetch_max(self.0.used(), Ordering::Relaxed);
        allocated
    }

    unsafe fn dealloc(&self, allocated: *mut u8, layout: Layout) {
        // SAFETY: as for the caller.
        unsafe { self.0.dealloc(allocated, layout) }
    }
}

/// Prints how much of the memory is used.
pub fn print_figures() {
    // SAFETY: the linker has made these symbols. Only their addresses are taken.
    unsafe extern "C" {
        static __sidata: u32;
        static __sdata: u32;
        static __edata: u32;
        static __ebss: u32;
        static _stack_start: u32;
    }
    let [data, data_end, bss_end, flash, stack_start] = [
        &raw const __sdata,
        &raw const __edata,
        &raw const __ebss,
        &raw const __sidata,
        &raw const _stack_start,
    ]
    .map(|symbol| symbol as usize);
    // SAFETY: these words are in memory, and nobody else writes there.
    let is_unused = |word: &*mut u32| unsafe { ptr::read_volatile(*word) } == UNUSED;
    let bottom = cortex_m_rt::heap_start() as usize + HEAP_SIZE;
    let unused = free_stack().take_while(is_unused).count() * 4;
    let stack = stack_start - bottom - unused;
    hprintln!("flash: {} octets", flash + (data_end - data));
    hprintln!("RAM: {} octets of static data", bss_end - data);
    hprintln!("RAM: {} octets of stack at most", stack);
    hprintln!(
        "RAM: {} octets of heap at most",
        PEAK.load(Ordering::Relaxed)
    );
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    hprintln!("{}", info);
    debug::exit(debug::EXIT_FAILURE);
    loop {}
}

/* A GPU that is not there: libnvidia-ml.so.1 with a known law of power, for tests only.
 *
 * NVML_STUB_LAW names a text file, read again at every call, of lines `KEY GPU VALUE...`:
 *   power 0 T W T W ...   piecewise linear power (watts) over seconds since 1970, constant outside
 *   step 0 S              the energy counter moves every S seconds (0: always)
 *   reset 0 T             the counter starts again from zero at T
 *   frozen 0 FROM TO      the counter shows its value of FROM until TO, and then goes on without what it missed
 *   jump 0 T J            from T on the counter shows J joules more
 *   scale 0 F             the counter moves F times as fast as the power says
 *   average 0 S           power readings are means over the last S seconds, and the one of the moment is NOT_SUPPORTED
 *   nocounter 0           the counter is NOT_SUPPORTED (3)
 *   lost 0 T              from T on every call for this GPU gives GPU_IS_LOST (15)
 *   pids 0 P P ...        compute processes
 *   throttle 0 MASK       clocks event reasons
 *   uuid 0 TEXT, name 0 TEXT, mig 0 TEXT (UUID of a slice of it)
 * The number of GPUs is the number of `power` lines. The energy is the exact integral of the power.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_GPUS 16
#define MAX_POINTS 32
#define MAX_PIDS 8
enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, LOST = 15 };

typedef struct {
  int points, counter, pid_count;
  double at[MAX_POINTS], watts[MAX_POINTS], step, reset, lost, frozen, thawed, jump, jump_j, scale, average;
  unsigned pids[MAX_PIDS], throttle;
  char uuid[96], name[96], mig[96];
} Gpu;

typedef struct { unsigned pid; unsigned long long memory; unsigned instance, compute; } Process;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct {
  unsigned field, scope;
  long long timestamp, latency;
  int type, status;
  union { double number; unsigned milliwatts; unsigned long long wide; } value;
} FieldValue;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static int load(Gpu *gpus) {
  const char *path = getenv("NVML_STUB_LAW");
  FILE *file = path ? fopen(path, "r") : NULL;
  char line[2048], key[32];
  int index, used, count = 0;
  memset(gpus, 0, sizeof(Gpu) * MAX_GPUS);
  for (int i = 0; i < MAX_GPUS; i++) {
    gpus[i].counter = 1;
    gpus[i].reset = gpus[i].lost = gpus[i].frozen = gpus[i].thawed = gpus[i].jump = HUGE_VAL;
    gpus[i].scale = 1;
    snprintf(gpus[i].uuid, 96, "GPU-0000000%d-0000-0000-0000-000000000000", i);
    snprintf(gpus[i].name, 96, "Stub GPU");
  }
  if (!file) return 0;
  while (fgets(line, sizeof line, file)) {
    if (sscanf(line, "%31s %d%n", key, &index, &used) < 2 || index < 0 || index >= MAX_GPUS) continue;
    Gpu *g = &gpus[index];
    char *rest = line + used;
    line[strcspn(line, "\n")] = 0;
    while (*rest == ' ') rest++;
    if (!strcmp(key, "power")) {
      double at, watts;
      while (g->points < MAX_POINTS && sscanf(rest, "%lf %lf%n", &at, &watts, &used) == 2) {
        g->at[g->points] = at, g->watts[g->points++] = watts, rest += used;
      }
      count++;
    } else if (!strcmp(key, "step")) g->step = atof(rest);
    else if (!strcmp(key, "reset")) g->reset = atof(rest);
    else if (!strcmp(key, "frozen")) sscanf(rest, "%lf %lf", &g->frozen, &g->thawed);
    else if (!strcmp(key, "jump")) sscanf(rest, "%lf %lf", &g->jump, &g->jump_j);
    else if (!strcmp(key, "average")) g->average = atof(rest);
    else if (!strcmp(key, "scale")) g->scale = atof(rest);
    else if (!strcmp(key, "lost")) g->lost = atof(rest);
    else if (!strcmp(key, "nocounter")) g->counter = 0;
    else if (!strcmp(key, "throttle")) g->throttle = (unsigned)strtoul(rest, NULL, 0);
    else if (!strcmp(key, "uuid")) snprintf(g->uuid, 96, "%s", rest);
    else if (!strcmp(key, "name")) snprintf(g->name, 96, "%s", rest);
    else if (!strcmp(key, "mig")) snprintf(g->mig, 96, "%s", rest);
    else if (!strcmp(key, "pids")) {
      while (g->pid_count < MAX_PIDS && sscanf(rest, "%u%n", &g->pids[g->pid_count], &used) == 1)
        g->pid_count++, rest += used;
    }
  }
  fclose(file);
  return count;
}

static double power(const Gpu *g, double t) {
  if (t < g->at[0]) return g->watts[0];
  for (int i = 1; i < g->points; i++)
    if (t < g->at[i])
      return g->watts[i - 1] + (g->watts[i] - g->watts[i - 1]) * (t - g->at[i - 1]) / (g->at[i] - g->at[i - 1]);
  return g->watts[g->points - 1];
}

/* Joules from a thousand seconds before the first point until t. */
static double energy(const Gpu *g, double t) {
  double sum = g->watts[0] * (fmin(t, g->at[0]) - (g->at[0] - 1000.0));
  for (int i = 1; i < g->points && t > g->at[i - 1]; i++) {
    double end = fmin(t, g->at[i]);
    double last = end < g->at[i] ? power(g, end) : g->watts[i];
    sum += (g->watts[i - 1] + last) / 2 * (end - g->at[i - 1]);
  }
  double tail = t - g->at[g->points - 1];
  return tail > 0 ? sum + g->watts[g->points - 1] * tail : sum;
}

/* Handles are 1 + index; of MIG slices 101 + index. */
static int find(void *handle, Gpu *gpu) {
  Gpu gpus[MAX_GPUS];
  long index = (long)handle - 1;
  int count = load(gpus);
  if (index < 0 || index >= count) return INVALID;
  *gpu = gpus[index];
  return now() >= gpu->lost ? LOST : OK;
}

#define GPU_OR_RETURN(handle) \
  Gpu g;                      \
  int status = find(handle, &g); \
  if (status) return status

int nvmlInit_v2(void) { return OK; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) {
  return code == NOT_SUPPORTED ? "Not Supported" : code == LOST ? "GPU is lost" : "stub error";
}
int nvmlDeviceGetCount_v2(unsigned *count) {
  Gpu gpus[MAX_GPUS];
  *count = (unsigned)load(gpus);
  return OK;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  Gpu gpus[MAX_GPUS];
  if (index >= (unsigned)load(gpus)) return INVALID;
  *handle = (void *)(long)(index + 1);
  return OK;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
  Gpu gpus[MAX_GPUS];
  int count = load(gpus);
  for (long i = 0; i < count; i++) {
    if (!strcmp(uuid, gpus[i].uuid)) return *handle = (void *)(i + 1), OK;
    if (gpus[i].mig[0] && !strcmp(uuid, gpus[i].mig)) return *handle = (void *)(i + 101), OK;
  }
  return NOT_FOUND;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *slice, void **handle) {
  if ((long)slice < 101) return INVALID;
  *handle = (void *)((long)slice - 100);
  return OK;
}
int nvmlDeviceGetIndex(void *handle, unsigned *index) {
  GPU_OR_RETURN(handle);
  *index = (unsigned)((long)handle - 1);
  return OK;
}
int nvmlDeviceGetName(void *handle, char *text, unsigned size) {
  GPU_OR_RETURN(handle);
  snprintf(text, size, "%s", g.name);
  return OK;
}
int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
  GPU_OR_RETURN(handle);
  snprintf(text, size, "%s", g.uuid);
  return OK;
}
int nvmlDeviceGetArchitecture(void *handle, unsigned *architecture) {
  GPU_OR_RETURN(handle);
  *architecture = 8; /* Ada: Zeus asks before it reads the counter */
  return OK;
}
int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
  GPU_OR_RETURN(handle);
  *memory = (Memory){16ULL << 30, 15ULL << 30, 1ULL << 30};
  return OK;
}
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *millijoules) {
  GPU_OR_RETURN(handle);
  if (!g.counter) return NOT_SUPPORTED;
  double t = now();
  if (g.step > 0) t = floor(t / g.step) * g.step;
  double joules = energy(&g, t);
  if (t >= g.reset) joules -= energy(&g, g.reset);
  if (t >= g.frozen) joules -= energy(&g, fmin(t, g.thawed)) - energy(&g, g.frozen);
  joules *= g.scale;
  if (t >= g.jump) joules += g.jump_j;
  *millijoules = (unsigned long long)(joules * 1000.0);
  return OK;
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) {
  GPU_OR_RETURN(handle);
  double t = now(), watts = power(&g, t);
  if (g.average > 0) watts = (energy(&g, t) - energy(&g, t - g.average)) / g.average;
  *milliwatts = (unsigned)lround(watts * 1000.0);
  return OK;
}
/* Of all fields, only the power of the moment (186), an unsigned int (type 1). */
int nvmlDeviceGetFieldValues(void *handle, int count, FieldValue *values) {
  GPU_OR_RETURN(handle);
  for (int i = 0; i < count; i++) {
    values[i].status = values[i].field == 186 && !g.average ? OK : NOT_SUPPORTED;
    values[i].type = 1;
    values[i].value.milliwatts = (unsigned)lround(power(&g, now()) * 1000.0);
  }
  return OK;
}
static int limit(void *handle, unsigned *milliwatts) {
  GPU_OR_RETURN(handle);
  *milliwatts = 400000;
  return OK;
}
int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *mw) { return limit(handle, mw); }
int nvmlDeviceGetPowerManagementLimit(void *handle, unsigned *mw) { return limit(handle, mw); }
int nvmlDeviceGetPowerManagementDefaultLimit(void *handle, unsigned *mw) { return limit(handle, mw); }
int nvmlDeviceGetUtilizationRates(void *handle, Utilization *rates) {
  GPU_OR_RETURN(handle);
  *rates = (Utilization){90, 50};
  return OK;
}
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *celsius) {
  (void)sensor;
  GPU_OR_RETURN(handle);
  *celsius = 61;
  return OK;
}
int nvmlDeviceGetComputeMode(void *handle, int *mode) {
  GPU_OR_RETURN(handle);
  *mode = 0;
  return OK;
}
static int processes(void *handle, unsigned *count, Process *list) {
  GPU_OR_RETURN(handle);
  unsigned room = *count;
  *count = (unsigned)g.pid_count;
  if (g.pid_count == 0) return OK;
  if (!list || room < *count) return TOO_SMALL;
  for (int i = 0; i < g.pid_count; i++) list[i] = (Process){g.pids[i], 1ULL << 30, 0xffffffffu, 0xffffffffu};
  return OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, Process *list) {
  return processes(handle, count, list);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, Process *list) {
  (void)list;
  GPU_OR_RETURN(handle);
  *count = 0;
  return OK;
}
int nvmlDeviceGetClockInfo(void *handle, int type, unsigned *mhz) {
  GPU_OR_RETURN(handle);
  *mhz = type == 2 ? 5000 : 1400;
  return OK;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *mask) {
  GPU_OR_RETURN(handle);
  *mask = g.throttle;
  return OK;
}
int nvmlSystemGetDriverVersion(char *text, unsigned size) {
  snprintf(text, size, "stub");
  return OK;
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
  *version = 13000;
  return OK;
}

import type { ISandbox, SandboxState, Verb } from '../tokens';
import { hibernateIcon } from '../components/icons';
import { nameOf } from '../words';
import type { CommandArgs, ICommandContext } from './context';
import { attempt, DESCRIBED, Targets } from './context';
import { askText, confirm, confirmPromote, confirmPrune } from './dialogs';
import { CommandIDs } from './ids';

type Simple = Extract<
  Verb,
  'start' | 'stop' | 'hibernate' | 'wake' | 'reset' | 'promote' | 'delete'
>;

/**
 * What a user says to a question: no, yes, or yes and what to do afterwards.
 */
type Answer = boolean | (() => Promise<void>);

/**
 * The commands that do something with a machine as a whole.
 */
export function addMachineCommands(context: ICommandContext): void {
  const { app, service, store, documents, trans } = context;
  const { commands } = app;
  const targets = new Targets(context);

  const run = (sandbox: ISandbox, verb: Simple): Promise<void> =>
    store.run(verb, sandbox.id, () => service.act(sandbox.id, verb));

  const add = (
    id: string,
    verb: Simple,
    label: string,
    caption: string,
    states: readonly SandboxState[],
    sure: (sandbox: ISandbox) => Promise<Answer> = () => Promise.resolve(true)
  ) => {
    const able = (sandbox: ISandbox | null): sandbox is ISandbox =>
      targets.free(sandbox) &&
      states.includes(sandbox.state) &&
      (verb !== 'promote' || store.sandboxes.has(sandbox.origin));
    commands.addCommand(id, {
      describedBy: DESCRIBED,
      label,
      caption,
      icon: verb === 'hibernate' ? hibernateIcon : undefined,
      isEnabled: args => able(targets.sandbox(args)),
      isVisible: args => !args['menu'] || able(targets.sandbox(args)),
      execute: (args: CommandArgs) =>
        attempt(async () => {
          const sandbox = targets.sandbox(args);
          const answer = able(sandbox) && (await sure(sandbox));
          if (sandbox && answer) {
            await run(sandbox, verb);
            await (answer === true ? undefined : answer());
          }
        })
    });
  };

  add(
    CommandIDs.start,
    'start',
    trans.__('Start'),
    trans.__('Boot the machine from its disk'),
    ['stopped']
  );
  add(
    CommandIDs.stop,
    'stop',
    trans.__('Stop…'),
    trans.__('Shut the machine down and keep its disk'),
    ['running', 'hibernated'],
    sandbox =>
      confirm(
        trans.__('Stop %1?', nameOf(sandbox)),
        trans.__(
          'Its disk and its snapshots stay; the variables in its memory do not. Hibernate keeps those, too.'
        ),
        trans.__('Stop')
      )
  );
  add(
    CommandIDs.hibernate,
    'hibernate',
    trans.__('Hibernate'),
    trans.__('Write the memory to disk and end the machine until it is needed'),
    ['running']
  );
  add(
    CommandIDs.wake,
    'wake',
    trans.__('Wake'),
    trans.__('Bring the machine back, with all its variables'),
    ['hibernated']
  );
  add(
    CommandIDs.reset,
    'reset',
    trans.__('Reset…'),
    trans.__('Put the machine back to its clean image'),
    ['running', 'hibernated', 'stopped'],
    sandbox =>
      confirm(
        trans.__('Reset %1?', nameOf(sandbox)),
        trans.__(
          'The machine goes back to the clean image of %1: all variables, packages and files in it leave. What it leaves becomes a snapshot first, and a rollback to that undoes this.',
          sandbox.runtime
        ),
        trans.__('Reset')
      )
  );
  add(
    CommandIDs.promote,
    'promote',
    trans.__('Promote…'),
    trans.__('Put this fork in the place of the machine it came from'),
    ['running', 'hibernated', 'stopped'],
    async sandbox => {
      const origin = store.sandboxes.get(sandbox.origin);
      const path = sandbox.notebook_path;
      const answer = await confirmPromote(
        sandbox,
        origin ? nameOf(origin) : sandbox.origin,
        trans
      );
      return answer?.deleteNotebook && path
        ? () => documents.deleteFile(path)
        : answer !== null;
    }
  );
  add(
    CommandIDs.remove,
    'delete',
    trans.__('Delete…'),
    trans.__('End the machine and remove all that it has'),
    ['running', 'hibernated', 'stopped', 'standby'],
    sandbox =>
      confirm(
        trans.__('Delete %1?', nameOf(sandbox)),
        trans._n(
          'Its memory, its disk and its %1 snapshot are removed for good. The notebook stays.',
          'Its memory, its disk and its %1 snapshots are removed for good. The notebook stays.',
          sandbox.history.count
        ),
        trans.__('Delete')
      )
  );

  commands.addCommand(CommandIDs.prune, {
    describedBy: DESCRIBED,
    label: trans.__('Prune History…'),
    caption: trans.__('Remove the snapshots that nobody asked for'),
    isEnabled: args => targets.free(targets.sandbox(args)),
    execute: (args: CommandArgs) =>
      attempt(async () => {
        const sandbox = targets.sandbox(args);
        if (!sandbox) {
          return;
        }
        const prunable = await service.prunable(sandbox.id);
        if (await confirmPrune(sandbox, prunable, trans)) {
          await store.run('prune', sandbox.id, () =>
            service.act(sandbox.id, 'prune')
          );
        }
      })
  });

  commands.addCommand(CommandIDs.rename, {
    describedBy: DESCRIBED,
    label: trans.__('Rename Sandbox…'),
    isEnabled: args => targets.sandbox(args) !== null,
    execute: (args: CommandArgs) =>
      attempt(async () => {
        const sandbox = targets.sandbox(args);
        if (!sandbox) {
          return;
        }
        const name = await askText(
          trans.__('Rename Sandbox'),
          sandbox.name,
          trans.__('Rename'),
          nameOf(sandbox)
        );
        if (name !== null) {
          await service.rename(sandbox.id, name);
        }
      })
  });

  commands.addCommand(CommandIDs.open, {
    describedBy: DESCRIBED,
    label: trans.__('Open Notebook'),
    isEnabled: args => Boolean(targets.sandbox(args)?.notebook_path),
    isVisible: args => Boolean(targets.sandbox(args)?.notebook_path),
    execute: async (args: CommandArgs) => {
      const sandbox = targets.sandbox(args);
      if (sandbox?.notebook_path) {
        await commands.execute('docmanager:open', {
          path: sandbox.notebook_path,
          factory: 'Notebook',
          kernel: { name: sandbox.kernel }
        });
      }
    }
  });
}
